"""What the columns of a trial mean: `Schema`, from a user's choices; finds arms and categories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from tfalloc._warn import warn
from tfalloc.data import columns as checks
from tfalloc.data.arms import Arms, find_arms, is_label_column
from tfalloc.data.columns import STRING, require_columns, require_unique, shorten
from tfalloc.data.features import FeatureSchema, columns_by_name

Mapped = Mapping[Any, float]

POSITIVE = {"yes": "no", "y": "n", "true": "false", "t": "f"}
"""Labels of a response that need no explanation: the first of each pair is 1."""

SAMPLE_ROWS = 10_000
"""Rows looked at for columns that seem to be identifiers."""


@dataclass(frozen=True, kw_only=True)
class Schema(FeatureSchema):
    """What the columns of a trial mean: its features, and what else it knows of users.

    Attributes:
      categories: string feature -> its distinct values in the whole trial, most frequent first.
      arms: the treatments.
      response_labels: (what counts as 0, what counts as 1) of a response in words, else None.
      cost_table: cost per arm [K] when costs were given as a mapping, else None.
      propensity_table: share per arm [K] unless a column gives propensities.
      propensity_source: "observed", "column" or "mapping".
      weighted: whether rows have sample weights.
      clustered: whether rows have clusters.
    """

    categories: dict[str, tuple[str, ...]]
    arms: Arms
    response_labels: tuple[str, str] | None = None
    cost_table: np.ndarray | None
    propensity_table: np.ndarray | None
    propensity_source: str
    weighted: bool
    clustered: bool = False

    def with_shares(self, shares: np.ndarray) -> Schema:
        """Returns the schema with observed shares [K] as propensities."""
        return replace(self, propensity_table=shares)


@dataclass(frozen=True)
class Roles:
    """Which column plays which role; mappings are already in the schema."""

    treatment: str
    response: str
    cost: str | None = None
    propensity: str | None = None
    sample_weight: str | None = None
    cluster: str | None = None

    def columns(self) -> list[str]:
        """The target columns that are read, in order; one may be both response and cost."""
        return list(dict.fromkeys(self.given().values()))

    def of(self, frame: pd.DataFrame) -> dict[str, pd.Series]:
        """The target columns of a frame by role."""
        return {role: frame[name] for role, name in self.given().items()}

    def given(self) -> dict[str, str]:
        """Role -> column, of the roles that a column has."""
        return {role: name for role, name in vars(self).items() if name is not None}


def from_table(
    table: Any,
    *,
    treatment: str,
    response: str,
    cost: str | Mapped,
    features: Sequence[str] | None = None,
    propensity: str | Mapped | None = None,
    sample_weight: str | None = None,
    treatments: Sequence[Any] | None = None,
    missing: str = "error",
    positive: Any = None,
    cluster: str | None = None,
    exclude: Sequence[str] = (),
) -> tuple[Roles, Schema]:
    """Resolves a user's choices against a table.

    Args:
      table: has `columns`, all names; `head(names)`, rows that show each type; and `chunks(names)`,
        which yields all rows of these columns. That is read once, for the treatment, the string
        features and what else decides arms and codes.
      treatment, response, cost, features, propensity, sample_weight, treatments, missing, positive,
        cluster, exclude: as `RCTData.from_frame`.
    """
    columns = list(table.columns)
    require_unique(columns)
    for role, name in {"treatment": treatment, "response": response, "cost": cost}.items():
        if name is None:
            raise ValueError(f"{role}=None; expected one of the columns {shorten(columns)}.")
    roles = Roles(
        treatment,
        response,
        None if isinstance(cost, Mapping) else cost,
        None if isinstance(propensity, Mapping) else propensity,
        sample_weight,
        cluster,
    )
    require_columns(roles.given().items(), columns)
    others = [name for role, name in roles.given().items() if role not in ("treatment", "cluster")]
    if treatment in others:
        raise ValueError(
            f"column {treatment!r} is the treatment and another target too; expected columns of "
            "their own for response, cost, propensity and weight."
        )
    names = _feature_names(columns, roles, features, exclude)
    head = table.head([*names, *roles.columns()])
    kinds = {name: checks.kind_of(name, head[name]) for name in names}
    scan = _Scan(roles, kinds, head, missing, treatments is None)
    wanted = list(dict.fromkeys([*scan.columns, *scan.strings]))
    for chunk in table.chunks(wanted):
        scan.add(chunk)
    schema = _found(
        scan,
        kinds,
        missing=missing,
        costs=cost if isinstance(cost, Mapping) else None,
        propensity=propensity if isinstance(propensity, Mapping) else None,
        treatments=treatments,
        positive=positive,
    )
    if features is None:
        _warn_of_identifiers(next(iter(table.chunks(names))).head(SAMPLE_ROWS))
    return roles, schema


def from_arrays(
    features: Any,
    targets: Mapping[str, pd.Series],
    *,
    propensity: Mapped | None,
    num_treatments: int | None,
    treatment_names: Sequence[str] | None,
    missing: str,
) -> tuple[Roles, Schema]:
    """Finds the meaning of arrays.

    Args:
      features: a data frame, a dict of columns, or a matrix, as `RCTData`.
      targets: by role; treatment, response and cost, and if there are columns for them
        propensity, sample_weight and cluster.
      propensity: {treatment: share}, if there is no column.
      num_treatments, treatment_names, missing: as `RCTData`.
    """
    columns, matrix = _feature_columns(features)
    received = targets["treatment"]
    for name, values in [*targets.items(), *columns.items()]:
        if len(values) != len(received):
            raise ValueError(
                f"{name!r} has {len(values)} rows, treatment has {len(received)}; "
                "expected equal lengths."
            )
    roles = Roles(**{role: role for role in targets})
    kinds = {name: checks.kind_of(name, column) for name, column in columns.items()}
    scan = _Scan(roles, kinds, targets, missing, treatment_names is None)
    scan.add(targets, columns)
    return roles, _found(
        scan,
        kinds,
        matrix=matrix,
        missing=missing,
        propensity=propensity,
        treatments=treatment_names,
        num_treatments=num_treatments,
    )


class _Scan:
    """What a pass over all rows finds: labels, mean costs of arms, categories.

    Args:
      roles: columns by role.
      kinds: feature -> kind.
      head: columns that show each type.
      missing: policy for missing features.
      by_cost: whether labels have no order of their own unless the column has one.
    """

    def __init__(
        self, roles: Roles, kinds: Mapping[str, str], head: Any, missing: str, by_cost: bool
    ):
        checks.check_missing(missing)
        self.roles, self.missing = roles, missing
        treatment = head[roles.treatment]
        self.by_label = is_label_column(treatment)
        self.order: list[Any] | None = None
        if isinstance(treatment.dtype, pd.CategoricalDtype) and treatment.dtype.ordered:
            self.order = list(treatment.dtype.categories)
        self.by_cost = by_cost and self.by_label and self.order is None
        self.in_words = is_label_column(head[roles.response])
        self.columns = [roles.treatment, roles.response]
        if self.by_cost and roles.cost is not None:
            self.columns.append(roles.cost)
        self.counts: dict[str, Counter[str]] = {
            name: Counter() for name, kind in kinds.items() if kind == STRING
        }
        self.rows: Counter[Any] = Counter()
        self.cost: Counter[Any] = Counter()
        self.responses: dict[Any, None] = {}

    @property
    def strings(self) -> list[str]:
        """Names of the string features."""
        return list(self.counts)

    def add(self, targets: Any, features: Any = None) -> None:
        """Takes in some rows; the features may be in the same frame."""
        received = targets[self.roles.treatment]
        codes, labels = pd.factorize(received)
        if (codes < 0).any():
            raise ValueError("treatment has missing values; expected one in every row: drop them.")
        rows = np.bincount(codes, minlength=len(labels))
        self.rows.update(dict(zip(labels, rows.tolist(), strict=True)))
        if self.by_cost and self.roles.cost is not None:
            cost = checks.target_to_float32(
                self.roles.cost, targets[self.roles.cost], "cost", least=0.0
            )
            sums = np.bincount(codes, cost.astype(np.float64), len(labels))
            self.cost.update(dict(zip(labels, sums.tolist(), strict=True)))
        if len(self.responses) <= 2:
            response = targets[self.roles.response]
            self.responses.update(dict.fromkeys(response.dropna().unique()[:3]))
        for name, counter in self.counts.items():
            _count_strings(
                counter, name, (targets if features is None else features)[name], self.missing
            )

    def labels(self, costs: Mapped | None) -> list[Any] | None:
        """The labels in order: that of an ordered categorical, else the cheapest first."""
        if not self.by_label:
            return None
        if self.order is not None:
            return [label for label in self.order if label in self.rows]
        if costs is not None:
            return sorted(costs, key=lambda label: float(costs[label]))
        mean = {label: self.cost[label] / rows for label, rows in self.rows.items()}
        return sorted(self.rows, key=lambda label: (mean[label], str(label)))


def _found(
    scan: _Scan,
    kinds: dict[str, str],
    *,
    matrix: bool = False,
    missing: str,
    costs: Mapped | None = None,
    propensity: Mapped | None,
    treatments: Sequence[Any] | None,
    num_treatments: int | None = None,
    positive: Any = None,
) -> Schema:
    """The schema that a scan found, with what the user said."""
    if not scan.rows:
        raise ValueError("the data set is empty (0 rows); expected at least one row per arm.")
    arms = find_arms(
        list(scan.rows),
        scan.by_label,
        treatments,
        scan.labels(costs) if treatments is None else None,
        num_treatments,
        costs,
    )
    source = "observed" if scan.roles.propensity is None else "column"
    return Schema(
        kinds=kinds,
        categories={name: _ordered(counter) for name, counter in scan.counts.items()},
        matrix=matrix,
        missing=missing,
        arms=arms,
        response_labels=_response_labels(scan, positive),
        cost_table=None if costs is None else _cost_table(arms, costs),
        propensity_table=None if propensity is None else _share_table(arms, propensity),
        propensity_source=source if propensity is None else "mapping",
        weighted=scan.roles.sample_weight is not None,
        clustered=scan.roles.cluster is not None,
    )


def _response_labels(scan: _Scan, positive: Any) -> tuple[str, str] | None:
    """(label of 0, label of 1) of a response of two words; None for numbers."""
    name, found = scan.roles.response, [checks.as_text(value) for value in scan.responses]
    if positive is None:
        if not scan.in_words or all(checks.is_number(text) for text in found):
            return None
        known = [x for x in found if x.strip().lower() in POSITIVE]
        if len(known) == 1 and all(
            x in known or x.strip().lower() == POSITIVE[known[0].strip().lower()] for x in found
        ):
            positive = known[0]
    one = [x for x in found if positive is not None and x == checks.as_text(positive)]
    if not 1 <= len(found) <= 2 or (len(found) == 2 and not one):
        raise ValueError(
            f"response {name!r} holds {found[0]!r}; expected numbers, or two labels and "
            f"positive= the one that counts as 1: found {shorten(found)}, positive={positive!r}."
        )
    zero = [x for x in found if x not in one]
    return zero[0] if zero else "", one[0] if one else checks.as_text(positive)


def _warn_of_identifiers(sample: pd.DataFrame) -> None:
    """Warns of features that nobody named and that differ in every row, as identifiers do."""
    if len(sample) < 100:
        return
    found = []
    for name, column in sample.items():
        numbers = column.dtype.kind if isinstance(column.dtype, np.dtype) else "O"
        whole = numbers in "iu" or (numbers == "f" and (column.dropna() % 1 == 0).all())
        if (whole or numbers == "O") and column.nunique() > 0.95 * len(sample):
            found.append(name)
    if found:
        warn(
            f"feature columns {shorten(found)} differ in nearly every row and look like "
            "identifiers, from which nothing can be learned: leave them out by exclude=[…], or "
            "name all features by features=[…] if they are none."
        )


def _feature_columns(features: Any) -> tuple[dict[str, pd.Series], bool]:
    if isinstance(features, (pd.DataFrame, Mapping)):
        named = columns_by_name(features, "features", [])
        if not named:
            raise ValueError("features is an empty dict; expected at least one column.")
        return {name: checks.as_series(name, column) for name, column in named.items()}, False
    matrix = np.asarray(features)
    if matrix.ndim != 2:  # one without columns is a trial without features
        raise ValueError(
            f"features has shape {matrix.shape}; expected a matrix [N, F] or a dict of columns."
        )
    if not (np.issubdtype(matrix.dtype, np.number) or matrix.dtype == bool):
        raise ValueError(
            f"the feature matrix has dtype {matrix.dtype}; expected numbers: pass a dict of "
            "columns for strings."
        )
    return {str(i): pd.Series(matrix[:, i]) for i in range(matrix.shape[1])}, True


def _feature_names(
    columns: Sequence[str],
    roles: Roles,
    features: Sequence[str] | None,
    exclude: Sequence[str],
) -> list[str]:
    for option, given in (("features", features), ("exclude", exclude)):
        if isinstance(given, str):
            raise ValueError(f"{option}={given!r} is one string; expected a list of column names.")
    require_columns([("excluded", name) for name in exclude], columns)
    taken = roles.columns()
    if features is None:
        names = [name for name in columns if name not in taken]
    else:
        names = list(features)
        require_columns([("feature", name) for name in names], columns)
        require_unique(names)
        for name in names:
            if name in taken:
                raise ValueError(
                    f"column {name!r} is both a feature and a target (treatment, response, cost, "
                    "propensity or weight); expected one role: leave it out of `features`."
                )
    names = [name for name in names if name not in exclude]
    if not names:
        raise ValueError(
            "no feature columns are left; expected at least one besides treatment, response and "
            "cost."
        )
    return names


def _count_strings(counts: Counter[str], name: str, column: Any, missing: str) -> None:
    """Adds a column's values to `counts`; refuses too many distinct ones early."""
    text = checks.to_strings(name, column, missing)
    for value, count in pd.Series(text, dtype=object).value_counts().items():
        if not isinstance(value, str):
            raise ValueError(
                f"feature column {name!r} mixes strings with {value!r}; expected strings only: "
                f"convert it, for example frame[{name!r}].astype(str)."
            )
        counts[value] += int(count)
    checks.check_cardinality(name, len(counts))


def _ordered(counts: Counter[str]) -> tuple[str, ...]:
    """Returns categories, most frequent first; equal counts by name."""
    return tuple(sorted(counts, key=lambda value: (-counts[value], value)))


def _cost_table(arms: Arms, cost: Mapped) -> np.ndarray:
    """Returns costs per arm as float64 [K], none negative."""
    table = arms.table(cost, "cost")
    if (table < 0).any():
        arm = int(np.argmax(table < 0))
        raise ValueError(
            f"cost mapping gives {table[arm]:g} for treatment {arms.names[arm]!r}; expected costs "
            ">= 0."
        )
    return table


def _share_table(arms: Arms, shares: Mapped) -> np.ndarray:
    """Returns shares per arm as float64 [K], in (0, 1] and summing to 1."""
    table = arms.table(shares, "propensity")
    if (table <= 0).any() or (table > 1).any():
        raise ValueError(
            f"propensity mapping has {table[(table <= 0) | (table > 1)][0]:g}; expected shares in "
            "(0, 1]."
        )
    if abs(table.sum() - 1) > 1e-3:
        raise ValueError(
            f"propensity mapping sums to {table.sum():g}; expected shares summing to 1."
        )
    return table

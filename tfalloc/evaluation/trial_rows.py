"""What the evaluation is called with, as checked NumPy: trial rows, predictions, single numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from tfalloc._warn import warn
from tfalloc.data import RCTData

Floats = npt.NDArray[np.float64]

ESTIMATORS = ("hajek", "matched", "ht", "doubly_robust")

# Propensities this close to the observed shares (float32 columns) are the observed shares.
SHARE_TOLERANCE = 1e-5

# Standard errors are known from the differences between clusters; with fewer than this they are
# off by a sixth or more (one over the root of twice the number), and mostly too small.
FEW_CLUSTERS = 20


# Rows of a trial on disk that are read at a time.
READ_ROWS = 65_536


class Predictions(NamedTuple):
    """What a model expects of every row under every arm; the pair that the evaluation takes.

    Attributes:
      response: [N, K], expected response per user.
      cost: [N, K], expected cost per user.
    """

    response: npt.NDArray[Any]
    cost: npt.NDArray[Any]


class Rows(NamedTuple):
    """The rows of a trial, beside the weights of one estimator.

    Attributes:
      treatment: [N] int32, arm received.
      response: [N] float64, y; less `expected_response` of the arm received, if there is one.
      cost: [N] float64, z, cost per user; likewise less `expected_cost`.
      weight: [N] float64, sample weight / propensity of the received arm; the sample weight alone
        for the matched estimator.
      sample_weight: [N] float64, ones if the data have none.
      arm_weights: [K] float64, sums of the sample weights by arm received.
      names: K labels of the arms.
      observed_shares: whether the propensities are the shares observed in these very rows.
      estimator: one of `ESTIMATORS`.
      expected_response: [N, K], what a frozen model expects of every row under every arm, if the
        estimator is doubly robust; else None.
      expected_cost: [N, K], likewise; and where costs are known, what each arm costs.
      cluster: [N], number of the cluster of each row; None: rows are independent.
    """

    treatment: npt.NDArray[np.int32]
    response: Floats
    cost: Floats
    weight: Floats
    sample_weight: Floats
    arm_weights: Floats
    names: tuple[str, ...]
    observed_shares: bool
    estimator: str
    expected_response: npt.NDArray[Any] | None = None
    expected_cost: npt.NDArray[Any] | None = None
    cluster: npt.NDArray[np.intp] | None = None

    def arm_totals(self, x: Floats) -> Floats:
        """Sums of x by the arm received, [N] -> [K]."""
        sums = np.bincount(self.treatment, weights=x, minlength=len(self.names))
        return sums.astype(np.float64, copy=False)


def as_rows(
    data: Any,
    num_treatments: int,
    estimator: str = "hajek",
    *,
    outcome_model: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    cluster: Any = None,
    costs: bool = True,
    known_costs: bool = False,
) -> Rows:
    """Reads treatment, response, cost, propensity and sample_weight from `data`.

    Args:
      data: an `RCTData`, a mapping or data frame of columns, or any object with these attributes.
        Without propensities the observed shares of the arms are taken, as `RCTData` does.
      num_treatments: K, number of columns of the predictions.
      estimator: one of `ESTIMATORS`.
      outcome_model: (response, cost), [N, K] each; "doubly_robust" needs it, no other uses it.
      cluster: as for `as_clusters`.
      costs: whether to read the costs; if not, they are 0.
      known_costs: whether arms of which all rows cost the same cost just that, in `expected_cost`;
        not for "matched", the paper's, which counts matched rows only.

    Raises:
      ValueError: a column is missing, of another length, or has values outside its range.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator={estimator!r} is not known; expected one of {ESTIMATORS}.")
    data = outcomes_of(data, cluster)
    arm = column(data, "treatment", required=True)
    n = arm.size
    if n == 0:
        raise ValueError("data has 0 rows; expected at least one row of a trial.")
    treatment = arm.astype(np.int32)
    wrong = (treatment != arm) | (treatment < 0) | (treatment >= num_treatments)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"treatment is {arm[row]:g} in row {row}; expected integers in "
            f"0..{num_treatments - 1}, as the predictions have {num_treatments} columns."
        )
    response = column(data, "response", required=True, size=n)
    cost = column(data, "cost", required=True, size=n) if costs else np.zeros(n)
    sample_weight = column(data, "sample_weight", size=n, positive=True)
    if sample_weight is None:
        sample_weight = np.ones(n)
    arm_weights = np.bincount(treatment, sample_weight, num_treatments).astype(np.float64)
    share = (arm_weights / sample_weight.sum())[treatment]
    propensity = column(data, "propensity", size=n, positive=True)
    if propensity is None:
        propensity = share
    if propensity.max() > 1.0 + SHARE_TOLERANCE:
        raise ValueError(
            f"propensity reaches {propensity.max():g}; expected probabilities in (0, 1] of the "
            "treatment received: pass probabilities, not weights."
        )
    observed = bool(np.allclose(propensity, share, rtol=SHARE_TOLERANCE, atol=0.0))
    names = _lookup(data, "treatment_names")
    if names is None or len(names) != num_treatments:
        names = range(num_treatments)
    expected = _outcome_model(outcome_model, estimator, (n, num_treatments))
    if known_costs and estimator != "matched" and arm_weights.all():
        known = _known_costs(treatment, response, cost, expected, num_treatments)
        expected = expected[0], known
    everyone = np.arange(n)
    if expected[0] is not None:
        response = response - expected[0][everyone, treatment]
    if expected[1] is not None:
        cost = cost - expected[1][everyone, treatment]
    return Rows(
        treatment=treatment,
        response=response,
        cost=cost,
        weight=sample_weight if estimator == "matched" else sample_weight / propensity,
        sample_weight=sample_weight,
        arm_weights=arm_weights,
        names=tuple(str(name) for name in names),
        observed_shares=observed and estimator != "matched",
        estimator=estimator,
        expected_response=expected[0],
        expected_cost=expected[1],
        cluster=as_clusters(cluster, data, n),
    )


def outcomes_of(data: Any, cluster: Any = None) -> Any:
    """The columns of a trial that is read from disk; anything else as it is.

    Args:
      data: the trial.
      cluster: if it is the name of a feature, that is kept too; other features are not.
    """
    if not isinstance(data, RCTData) or not data.streaming:
        return data
    kept: list[dict[str, Any]] = []
    for features, targets, *weight in data.batches(READ_ROWS):
        kept.append(outcome_columns(targets, *weight))
        if isinstance(cluster, str) and isinstance(features, dict) and cluster in features:
            kept[-1][cluster] = features[cluster].numpy()
    return joined(kept, data)


def outcome_columns(targets: Mapping[str, Any], weight: Any = None) -> dict[str, Any]:
    """Targets of a batch, and its sample weights if there are any, as NumPy."""
    columns = {name: np.asarray(tensor) for name, tensor in targets.items()}
    return columns if weight is None else columns | {"sample_weight": np.asarray(weight)}


def joined(parts: list[dict[str, Any]], trial: Any) -> dict[str, Any]:
    """All rows of parts by `outcome_columns`, and the treatment_names of their trial."""
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return columns | {"treatment_names": trial.treatment_names}


def as_clusters(cluster: Any, data: Any, num_rows: int) -> npt.NDArray[np.intp] | None:
    """Numbers the clusters of rows that are not independent of one another.

    Args:
      cluster: [N] ids of any kind, the name of a column (or feature) of `data`, or None: those that
        an `RCTData` knows of, or a dict has in "cluster"; a data frame's may be a feature.
      data: the trial.
      num_rows: N.

    Returns:
      [N], in [0, number of clusters); None if there are none.

    Raises:
      ValueError: there is no such column, it has another length, an id is missing, or all rows are
        of one cluster.

    Warns:
      UserWarning: there are fewer than `FEW_CLUSTERS`.
    """
    if cluster is None and not isinstance(data, pd.DataFrame):
        cluster = _lookup(data, "cluster")
    if cluster is None:
        return None
    ids = cluster
    if isinstance(cluster, str):
        features = getattr(data, "features", None)
        ids = features.get(cluster) if isinstance(features, Mapping) else None
        if ids is None:
            ids = _lookup(data, cluster)
        if ids is None:
            raise ValueError(
                f"data has no column {cluster!r}; expected cluster= to name one, or to be an "
                "array of ids, one for each row."
            )
    # A list of strings with a NaN among them would become the string "nan".
    ids = np.asarray(ids, dtype=object if isinstance(ids, (list, tuple)) else None)
    if ids.shape != (num_rows,):
        raise ValueError(
            f"cluster has shape {ids.shape}; expected [{num_rows}], one id for each row of the "
            "trial."
        )
    codes, _ = pd.factorize(ids)
    if codes.min() < 0:
        raise ValueError(
            f"cluster has no id in row {int(np.argmin(codes))}; expected one for each row: give "
            "rows of their own an id of their own."
        )
    count = int(codes.max()) + 1
    if count < 2:
        raise ValueError(
            f"cluster puts all {num_rows} rows into one cluster; expected several, some dozens at "
            "best: errors are known from the differences between clusters only."
        )
    if count < FEW_CLUSTERS:
        warn(
            f"cluster has {count} clusters: standard errors from fewer than {FEW_CLUSTERS} are "
            "themselves uncertain, mostly too small, and so are intervals and p-values."
        )
    return codes


def predictions_and_rows(
    pred_response: npt.ArrayLike, pred_cost: npt.ArrayLike, data: Any, **options: Any
) -> tuple[Predictions, Rows]:
    """Both predictions and the trial that they were made for, checked.

    Args:
      pred_response: [N, K], predicted response.
      pred_cost: [N, K], predicted cost.
      data: the trial, and
      **options: estimator, outcome_model and cluster, as for `as_rows`.

    Raises:
      ValueError: as `as_predictions` and `as_rows`, or the numbers of rows differ.
    """
    predictions = as_predictions(pred_response, pred_cost)
    n, arms = predictions.response.shape
    rows = as_rows(data, arms, **options)
    if n != rows.treatment.size:
        raise ValueError(
            f"predictions have {n} rows and data {rows.treatment.size}; expected one prediction "
            "for each row: predict on the features of the same data."
        )
    return predictions, rows


def as_predictions(pred_response: npt.ArrayLike, pred_cost: npt.ArrayLike) -> Predictions:
    """Returns both predictions as float32 or float64 [N, K].

    Raises:
      ValueError: the shapes differ, are not [N, K], or an entry is not finite.
    """
    found = Predictions(_matrix("pred_response", pred_response), _matrix("pred_cost", pred_cost))
    if found.response.shape != found.cost.shape:
        raise ValueError(
            f"pred_response has shape {found.response.shape} and pred_cost {found.cost.shape}; "
            "expected the same shape [rows, num_treatments]."
        )
    return found


def shared_values(
    x: Floats, treatment: npt.NDArray[np.integer], arms: int, among: Any = True
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """The value that all rows of an arm share, such as its cost.

    Args:
      x: [N], an outcome.
      treatment: [N], arm received.
      arms: K.
      among: [N], the rows that count.

    Returns:
      [K] values, and whether all rows of the arm share it: an arm without rows has none.

    Example:
      >>> shared_values(np.array([0.0, 0.3, 0.0, 0.3]), np.array([0, 1, 0, 1]), 2)[0].tolist()
      [0.0, 0.3]
    """
    counted = np.broadcast_to(among, x.shape)
    value = np.zeros(arms)
    value[treatment[counted]] = x[counted]
    differs = np.bincount(treatment, counted & (x != value[treatment]), arms)
    return value, (differs == 0.0) & (np.bincount(treatment, counted, arms) > 0.0)


def _known_costs(
    treatment: npt.NDArray[np.int32],
    response: Floats,
    cost: Floats,
    expected: tuple[npt.NDArray[Any] | None, npt.NDArray[Any] | None],
    arms: int,
) -> npt.NDArray[Any] | None:
    """What every row costs under every arm, where the trial leaves no doubt of it.

    A cost that all rows of an arm share is known. So is the amount that an arm costs per response,
    and then a model of responses is one of costs; of other arms it is what a model expects. Without
    a model the costs of all arms must be known, for rows that are matched know the others best.

    Returns:
      [N, K]; None if there is no model and some cost is not known.
    """
    table, constant = shared_values(cost, treatment, arms)
    if expected[0] is None or expected[1] is None:
        known = constant.all() and table.any()
        return np.broadcast_to(table, (cost.size, arms)) if known else None
    found = np.where(constant, table, expected[1])
    amount, fixed = shared_values(cost, treatment, arms, response == 1.0)
    otherwise, free = shared_values(cost, treatment, arms, response == 0.0)
    on_response = fixed & free & (otherwise == 0.0) & ~constant
    if np.isin(response, (0.0, 1.0)).all():
        found = np.where(on_response, amount * expected[0], found)
    return found


def _outcome_model(
    given: Any, estimator: str, shape: tuple[int, int]
) -> tuple[npt.NDArray[Any] | None, npt.NDArray[Any] | None]:
    if estimator != "doubly_robust":
        if given is not None:
            raise ValueError(
                f"outcome_model is not used by estimator={estimator!r}; pass "
                "estimator='doubly_robust', or leave it out."
            )
        return None, None
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise ValueError(
            "estimator='doubly_robust' needs outcome_model=(response, cost), expected of every row "
            "under every arm; pass them, or use estimator='hajek'."
        )
    models = (
        _matrix("outcome_model's response", given[0]),
        _matrix("outcome_model's cost", given[1]),
    )
    for matrix in models:
        if matrix.shape != shape:
            raise ValueError(
                f"outcome_model has shape {matrix.shape}; expected {shape}, the outcomes expected "
                "of every row under every arm."
            )
    return models


def _matrix(name: str, given: npt.ArrayLike) -> npt.NDArray[Any]:
    matrix = as_floats(name, given)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(
            f"{name} has shape {matrix.shape}; expected [rows, num_treatments], neither of them 0."
        )
    # A sum is finite if all entries are; only a suspicious one is worth a full mask.
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(matrix.sum())
    if suspicious and not np.isfinite(matrix).all():
        row = int(np.flatnonzero(~np.isfinite(matrix).all(axis=1))[0])
        raise ValueError(
            f"{name} has a NaN or infinite entry, first in row {row}; expected finite numbers."
        )
    return matrix


def column(
    data: Any, name: str, *, required: bool = False, size: int | None = None, positive: bool = False
) -> Any:
    """A column of the trial as float64 [N]; None if it is absent and not required.

    Raises:
      ValueError: it is absent, of another length, or has values that are not finite (positive).
    """
    given = _lookup(data, name)
    if given is None:
        if required:
            raise ValueError(
                f"data has no {name!r}; expected an RCTData, or columns treatment, response and "
                "cost (propensity and sample_weight are optional)."
            )
        return None
    advice = ": number the arms, or pass an RCTData" if name == "treatment" else ""
    column = as_floats(name, given, advice).astype(np.float64)
    if column.ndim != 1 or (size is not None and column.size != size):
        raise ValueError(
            f"{name} has shape {column.shape}; expected [{'rows' if size is None else size}], one "
            "entry for each row of the trial."
        )
    if not np.isfinite(column).all() or (positive and (column <= 0.0).any()):
        kind = "positive, finite" if positive else "finite"
        raise ValueError(f"{name} has values that are not {kind}; expected {kind} numbers.")
    return column


def _lookup(data: Any, name: str) -> Any:
    """A column of a mapping, a data frame or any object; None if there is none."""
    if isinstance(data, Mapping):
        return data.get(name)
    if hasattr(data, "columns"):
        return data[name] if name in data.columns else None
    return getattr(data, name, None)


def as_floats(name: str, given: Any, advice: str = "") -> npt.NDArray[Any]:
    """Returns float32 as it is, everything else as float64, of any shape.

    Raises:
      ValueError: it is not numeric.
    """
    array = np.asarray(given)
    if array.dtype == np.float32:
        return array
    try:
        if array.dtype.kind in "mMc":  # NumPy would take nanoseconds, or a real part
            raise TypeError(f"it is {array.dtype}")
        return array.astype(np.float64, copy=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is not numeric ({error}); expected numbers{advice}.") from error


def check_budget(budget: Any) -> float:
    """Returns the budget as a float.

    Raises:
      ValueError: it is not one finite number.
    """
    number = np.asarray(budget)
    if number.ndim != 0 or number.dtype.kind not in "biuf" or not np.isfinite(number):
        raise ValueError(
            f"budget={budget!r}; expected one finite cost per user: for an unlimited budget pass "
            "more than the dearest arm costs."
        )
    return float(budget)


def as_count(name: str, given: Any, least: int) -> int:
    """Returns a number of points, bins or thresholds.

    Raises:
      ValueError: it is no integer of at least `least`.
    """
    number = np.asarray(given)
    if number.ndim != 0 or number.dtype.kind not in "iuf" or not number >= least or number % 1:
        raise ValueError(f"{name}={given!r}; expected an integer of at least {least}.")
    return int(number)


def check_confidence(confidence: float) -> None:
    """Refuses confidence levels outside (0, 1)."""
    number = np.asarray(confidence)
    if number.ndim != 0 or number.dtype.kind != "f" or not 0.0 < number < 1.0:
        raise ValueError(f"confidence={confidence!r}; expected a level in (0, 1), such as 0.95.")

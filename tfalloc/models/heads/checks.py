"""What a model's heads are asked to be, and whether the trial has data that they can fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfalloc.data import RCTData
from tfalloc.models.heads.distributions import COST_HEADS, LOSSES, RESPONSE_HEADS

KINDS = ("independent", "marginal", "spline")

# Amounts times responses may differ from the trial's mean costs by this part of the largest.
AMOUNT_TOLERANCE = 0.1
# Of many doses, neighbours stand in the wrong order by chance: so many standard errors are noise.
ORDER_ERRORS = 4.0


@dataclass(frozen=True)
class HeadSettings:
    """What predicts both outcomes; arguments as in `AllocationModel`."""

    num_treatments: int
    heads: str
    response_head: str
    cost_head: str
    monotone: bool = False
    cost_amounts: tuple[float, ...] | None = None

    def head_of(self) -> dict[str, str]:
        """Outcome -> head; response first, on which a cost may depend."""
        return {"response": self.response_head, "cost": self.cost_head}

    def learns(self, name: str) -> bool:
        """Whether the network predicts this outcome."""
        return bool(LOSSES[self.head_of()[name]])

    def amounts(self) -> tf.Tensor:
        """Cost of a response in each arm, [K]."""
        return tf.constant(self.cost_amounts, tf.float32)


def check_settings(
    num_treatments: int,
    heads: str,
    response_head: str | None,
    cost_head: str | None,
    monotone: bool,
    cost_amounts: Sequence[float] | None,
) -> tuple[float, ...] | None:
    """Refuses heads that do not exist or do not go together; None: a head not known yet.

    Returns:
      `cost_amounts` as floats, or None.

    Raises:
      ValueError: with the argument as passed and how to mend it.
    """
    for argument, value, known in (
        ("heads", heads, KINDS),
        ("response_head", response_head, (*RESPONSE_HEADS, None)),
        ("cost_head", cost_head, (*COST_HEADS, None)),
    ):
        if value not in known:
            names = tuple(name for name in known if name is not None)
            raise ValueError(
                f"{argument}={value!r} is not known; expected one of {names}"
                f"{' or None' if None in known else ''}."
            )
    if monotone not in (True, False):
        raise ValueError(f"monotone={monotone!r}: expected True or False.")
    if heads == "spline" and monotone:
        raise ValueError(
            "heads='spline' with monotone=True: its curves may fall; use heads='independent' or "
            "heads='marginal', or leave monotone out."
        )
    marginal = heads == "marginal"
    if marginal and num_treatments < 2:
        raise ValueError(
            f"heads='marginal' with num_treatments={num_treatments}: expected at least 2 arms, "
            "since it predicts steps between them; use heads='independent'."
        )
    if cost_head != "on_response":
        if cost_amounts is not None:
            raise ValueError(
                f"cost_amounts={cost_amounts!r} with cost_head={cost_head!r}: amounts are of "
                "use for cost_head='on_response' only; leave them out, or pass that head."
            )
        return None
    if cost_amounts is None:
        raise ValueError(
            "cost_head='on_response' needs cost_amounts: what a response costs in each arm, "
            f"{num_treatments} numbers."
        )
    if response_head == "real":
        raise ValueError(
            "cost_head='on_response' with response_head='real': a negative response would cost "
            "less than nothing; use response_head='binary', 'nonnegative' or 'hurdle'."
        )
    amounts = check_amounts(cost_amounts, num_treatments)
    if marginal and not monotone:
        raise ValueError(
            "heads='marginal' with cost_head='on_response' needs monotone=True: where a dearer arm "
            "lowers the response, its cost need not be higher, and a step would have no price."
        )
    if monotone and np.any(np.diff(amounts) <= 0):
        raise ValueError(
            f"cost_amounts={cost_amounts!r}: expected increasing amounts for monotone=True; "
            "put the arms in the order of their amounts."
        )
    return tuple(amounts.tolist())


def check_amounts(cost_amounts: Any, num_treatments: int | None = None) -> np.ndarray:
    """What a response costs in each arm, [K] float64.

    Raises:
      ValueError: other than `num_treatments` numbers (if known), or one that is negative or not
        finite.
    """
    try:
        amounts = np.asarray(cost_amounts, np.float64)
    except (TypeError, ValueError):
        amounts = np.array(np.nan)
    fits = amounts.ndim == 1 and num_treatments in (None, len(amounts))
    if not fits or not np.all(np.isfinite(amounts) & (amounts >= 0)):
        raise ValueError(
            f"cost_amounts={cost_amounts!r}: expected {num_treatments or 'some'} finite numbers "
            "that are not negative, one for each arm."
        )
    return amounts


def choose_cost_head(data: RCTData) -> str:
    """ "constant" if each arm has one cost, "binary" if costs are 0 or 1, else "nonnegative"."""
    moments = data.arm_moments("cost")
    if np.all(moments.arm_variance <= 1e-12 * moments.second_moment):
        return "constant"
    return "binary" if moments.binary else "nonnegative"


def check_trial(data: RCTData, settings: HeadSettings) -> None:
    """Refuses a trial that the heads cannot fit.

    Raises:
      ValueError: outcomes outside a head's range, arms not in the order of their costs by more
        than noise ("marginal"), or costs that are not the amounts times the responses
        ("on_response").
    """
    for name, head in settings.head_of().items():
        moments = data.arm_moments(name)
        if head == "binary" and not moments.binary:
            raise ValueError(
                f"{name}_head='binary' needs a {name} of 0 or 1, but the data have other values; "
                "use 'nonnegative'."
            )
        if head in ("nonnegative", "hurdle") and not moments.nonnegative:
            raise ValueError(
                f"{name}_head={head!r} needs a {name} that is never negative, but the data have "
                "negative values; use 'real'."
            )
    if settings.cost_head == "on_response" and settings.response_head == "real":
        raise ValueError(
            "cost_head='on_response' needs a response that is never negative, but the data have "
            "negative values; use cost_head='nonnegative'."
        )
    if settings.cost_head == "on_response":
        _check_amounts(data, np.asarray(settings.cost_amounts))
    elif settings.heads == "marginal":
        _check_order(data)


def _check_order(data: RCTData) -> None:
    moments, names = data.arm_moments("cost"), data.treatment_names
    cost, noise = moments.mean, np.hypot(moments.stderr[:, None], moments.stderr[None, :])
    excess = cost[:, None] - cost[None, :]
    turned = (excess > ORDER_ERRORS * noise) | (excess >= 0) & (noise == 0)
    wrong = np.argwhere(np.triu(turned, 1))  # an arm and a later one
    if not len(wrong):
        return
    j, k = (int(arm) for arm in min(wrong.tolist(), key=lambda pair: pair[1] - pair[0]))
    if np.any(np.diff(np.sort(cost)) <= 0):
        remedy = "arms of equal cost have no price between them: use heads='independent'"
    else:
        order = [names[j] for j in np.argsort(cost)]
        remedy = (
            f"reorder the arms by label, treatments={order} (treatment_names= for arrays), or use "
            "heads='independent'"
        )
    raise ValueError(
        "heads='marginal' needs arms in the order of their mean cost in the trial, but treatment "
        f"{j} ({names[j]!r}) costs {cost[j]:.6g} and treatment {k} ({names[k]!r}) "
        f"{cost[k]:.6g}; {remedy}."
    )


def _check_amounts(data: RCTData, amounts: np.ndarray) -> None:
    cost = data.arm_moments("cost").mean
    expected = amounts * data.arm_moments("response").mean
    gap = np.abs(cost - expected)
    k = int(np.argmax(gap))
    if gap[k] > AMOUNT_TOLERANCE * max(cost.max(), expected.max()):
        raise ValueError(
            f"cost_amounts: in the trial treatment {k} ({data.treatment_names[k]!r}) costs "
            f"{cost[k]:.6g} per user, but its amount {amounts[k]:.6g} times its response is "
            f"{expected[k]:.6g}; expected amounts in the unit of the costs, paid on every response "
            "and on nothing else: mend them, or use cost_head='nonnegative'."
        )

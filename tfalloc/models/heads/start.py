"""What the heads need from a trial: its kind of cost, and data that they can fit."""

from __future__ import annotations

import numpy as np

from tfalloc.data import RCTData
from tfalloc.models.heads.setup import Setup

# Amounts times responses may differ from the trial's mean costs by this part of the largest.
AMOUNT_TOLERANCE = 0.1
# Of many doses, neighbours stand in the wrong order by chance: so many standard errors are noise.
ORDER_ERRORS = 4.0


def choose_cost_family(data: RCTData) -> str:
    """ "constant" if each arm has one cost, "binary" if costs are 0 or 1, else "nonnegative"."""
    moments = data.arm_moments("cost")
    if np.all(moments.arm_variance <= 1e-12 * np.maximum(moments.second_moment, 1e-30)):
        return "constant"
    return "binary" if moments.binary else "nonnegative"


def check_trial(data: RCTData, setup: Setup) -> None:
    """Refuses a trial that the heads cannot fit.

    Raises:
      ValueError: outcomes outside a family's range, arms not in the order of their costs by more
        than noise ("marginal"), or costs that are not the amounts times the responses
        ("on_response").
    """
    for name, family in setup.families().items():
        moments = data.arm_moments(name)
        if family == "binary" and not moments.binary:
            raise ValueError(
                f"{name}_head='binary' needs a {name} of 0 or 1, but the data have other values; "
                "use 'nonnegative'."
            )
        if family in ("nonnegative", "hurdle") and not moments.nonnegative:
            raise ValueError(
                f"{name}_head={family!r} needs a {name} that is never negative, but the data have "
                "negative values; use 'real'."
            )
    if setup.cost == "on_response" and setup.response == "real":
        raise ValueError(
            "cost_head='on_response' needs a response that is never negative, but the data have "
            "negative values; use cost_head='nonnegative'."
        )
    if setup.cost == "on_response":
        _check_amounts(data, np.asarray(setup.cost_amounts))
    elif setup.parameterisation == "marginal":
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

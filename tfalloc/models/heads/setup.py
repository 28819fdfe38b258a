"""What a model's heads are asked to be, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfalloc.models.heads.families import COST_HEADS, LOSSES, RESPONSE_HEADS

PARAMETERISATIONS = ("independent", "marginal", "spline")


@dataclass(frozen=True)
class Setup:
    """Families and parameterisation of both outcomes; arguments as in `AllocationModel`."""

    num_treatments: int
    parameterisation: str
    response: str
    cost: str
    monotone: bool = False
    cost_amounts: tuple[float, ...] | None = None

    def families(self) -> dict[str, str]:
        """Outcome -> family; response first, on which a cost may depend."""
        return {"response": self.response, "cost": self.cost}

    def learns(self, name: str) -> bool:
        """Whether the network predicts this outcome."""
        return bool(LOSSES[self.families()[name]])

    def amounts(self) -> tf.Tensor:
        """Cost of a response in each arm, [K]."""
        return tf.constant(self.cost_amounts, tf.float32)


def check_setup(
    num_treatments: int,
    parameterisation: str,
    response: str | None,
    cost: str | None,
    monotone: bool,
    cost_amounts: Sequence[float] | None,
) -> tuple[float, ...] | None:
    """Refuses heads that do not exist or do not go together; None: a family not known yet.

    Returns:
      `cost_amounts` as floats, or None.

    Raises:
      ValueError: with the argument as passed and how to mend it.
    """
    for argument, value, known in (
        ("heads", parameterisation, PARAMETERISATIONS),
        ("response_head", response, (*RESPONSE_HEADS, None)),
        ("cost_head", cost, (*COST_HEADS, None)),
    ):
        if value not in known:
            names = tuple(name for name in known if name is not None)
            raise ValueError(
                f"{argument}={value!r} is not known; expected one of {names}"
                f"{' or None' if None in known else ''}."
            )
    if parameterisation == "spline" and monotone:
        raise ValueError(
            "heads='spline' with monotone=True: its curves may fall; use heads='independent' or "
            "heads='marginal', or leave monotone out."
        )
    marginal = parameterisation == "marginal"
    if marginal and num_treatments < 2:
        raise ValueError(
            f"heads='marginal' with num_treatments={num_treatments}: expected at least 2 arms, "
            "since it predicts steps between them; use heads='independent'."
        )
    if cost != "on_response":
        if cost_amounts is not None:
            raise ValueError(
                f"cost_amounts={list(cost_amounts)!r} with cost_head={cost!r}: amounts are of use "
                "for cost_head='on_response' only; leave them out, or pass that head."
            )
        return None
    if cost_amounts is None:
        raise ValueError(
            "cost_head='on_response' needs cost_amounts: what a response costs in each arm, "
            f"{num_treatments} numbers."
        )
    if response == "real":
        raise ValueError(
            "cost_head='on_response' with response_head='real': a negative response would cost "
            "less than nothing; use response_head='binary', 'nonnegative' or 'hurdle'."
        )
    amounts = np.asarray(cost_amounts, np.float64)
    if amounts.shape != (num_treatments,) or not np.all(np.isfinite(amounts) & (amounts >= 0)):
        raise ValueError(
            f"cost_amounts={list(cost_amounts)!r}: expected {num_treatments} finite numbers that "
            "are not negative, one for each arm."
        )
    if marginal and not monotone:
        raise ValueError(
            "heads='marginal' with cost_head='on_response' needs monotone=True: where a dearer arm "
            "lowers the response, its cost need not be higher, and a step would have no price."
        )
    if monotone and np.any(np.diff(amounts) <= 0):
        raise ValueError(
            f"cost_amounts={list(cost_amounts)!r}: expected increasing amounts for monotone=True; "
            "put the arms in the order of their amounts."
        )
    return tuple(amounts.tolist())

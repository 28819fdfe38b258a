"""`Recipe`: how a model is trained, in values that a file or a command line can hold."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

Budget = float | tuple[float, float]


class RecipeError(ValueError):
    """A value of a recipe is out of range.

    Attributes:
      name: of the field.
      value: what it was.
      expected: what it may be.
    """

    def __init__(self, name: str, value: Any, expected: str):
        super().__init__(f"{name}={value!r}: expected {expected}.")
        self.name, self.value, self.expected = name, value, expected


def _named(default: Any, metavar: str) -> Any:
    return dataclasses.field(default=default, metadata={"metavar": metavar})


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is trained. `tfalloc train` has an option of the same name for each of these.

    Attributes:
      budget: Cost per user, or a range (low, high) of it.
      goal_weight: Weight of the allocation's outcome in the loss; 0: two-stage.
      goal_scale: What a goal weight of 1 means: as strong as the prediction losses, or Eq. 11.
      gradient: How the outcome is differentiated: finite-difference, nes, smoothed, integrated;
        several are summed.
      warm_start: Train two-stage first, then through the allocation; keep the best.
      backbone: Network: 16 units on binned features beside a linear path, 16 units, or
        512-256-128-64.
      response_head: Kind of response; binary is cross entropy. (default: by the data)
      cost_head: Kind of cost. (default: by the data)
      heads: One output for each arm, steps from arm to arm in the order of cost, or curves over
        many arms in the order of their dose.
      monotone: Response and cost increase in the arms' order.
      cost_amounts: Cost per response of each arm, in their order, for the cost head on_response.
      batch_size: Rows a step. (default: 10,000, less on small data)
      epochs: At most so many passes over the data; warm start: in each phase.
      learning_rate: Of Adam.
      weight_decay: Decoupled, of Adam; 0: none.
      validation_share: Share of the training rows that decides when to stop.
      patience: Epochs without a better val_goal before stopping; 0: never.
      seed: Seeds everything random: the same seed repeats the run.
      jit: Compile the training step with XLA.
      test_share: Share of the rows held out for the final evaluation.
      compare_two_stage: Also train goal weight 0, and compare.

    Raises:
      RecipeError: a value is out of range.

    Example:
      >>> Recipe(budget=(0.03, 0.07), epochs=5).two_stage().goal_weight
      0.0
      >>> Recipe(budget=0.05, epochs=0)
      Traceback (most recent call last):
        ...
      tfalloc.training.recipe.RecipeError: epochs=0: expected at least 1, below 2^31.
    """

    budget: Budget
    goal_weight: float = 0.1
    goal_scale: str = _named("normalized", "normalized|paper")
    gradient: str = _named("finite-difference", "A,B")
    warm_start: bool = True
    backbone: str = _named("encoded", "encoded|small|paper")
    response_head: str | None = _named(None, "binary|nonnegative|hurdle|real")
    cost_head: str | None = _named(None, "binary|nonnegative|hurdle|constant|on_response")
    heads: str = _named("independent", "independent|marginal|spline")
    monotone: bool = False
    cost_amounts: tuple[float, ...] | None = _named(None, "X,Y,…")
    batch_size: int | None = None
    epochs: int = 20
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    validation_share: float = 0.2
    patience: int = 5
    seed: int = 0
    jit: bool = True
    test_share: float = 0.2
    compare_two_stage: bool = False

    def __post_init__(self) -> None:
        for amount in self.budget if isinstance(self.budget, tuple) else (self.budget,):
            if not (math.isfinite(amount) and amount >= 0):
                raise RecipeError(
                    "budget", self.budget, "a finite cost per user that is not negative"
                )
        if isinstance(self.budget, tuple) and self.budget[0] > self.budget[1]:
            raise RecipeError("budget", self.budget, "LOW <= HIGH in a range")
        for name in ("goal_weight", "weight_decay"):
            self._check(name, lambda x: math.isfinite(x) and x >= 0, "a number from 0")
        self._check("learning_rate", lambda x: math.isfinite(x) and x > 0, "a number above 0")
        for name in ("validation_share", "test_share"):
            self._check(name, lambda x: 0 < x < 1, "a share between 0 and 1")
        for name in ("batch_size", "epochs"):
            self._check(name, lambda x: x is None or 1 <= x < 2**31, "at least 1, below 2^31")
        self._check("patience", lambda x: 0 <= x < 2**31, "0 (never stop early) or more")
        self._check("seed", lambda x: 0 <= x < 2**31, "an integer from 0 to 2^31 - 1")
        self._check(
            "goal_scale", lambda x: x in ("normalized", "paper"), "one of normalized, paper"
        )

    def _check(self, name: str, holds: Any, expected: str) -> None:
        value = getattr(self, name)
        if not holds(value):
            raise RecipeError(name, value, expected)

    @property
    def budget_points(self) -> list[float]:
        """Budgets at which results are reported: the one, or middle and ends of the range.

        The middle comes first: plots show it.
        """
        return budget_points(self.budget)

    def two_stage(self) -> Recipe:
        """The same without the allocation in the loss."""
        return dataclasses.replace(self, goal_weight=0.0, warm_start=False)

    def rows_a_step(self, rows: int) -> int:
        """Batch size for so many rows, of which the validation share is taken."""
        return self.batch_size or min(10_000, max(1, self._fitted(rows) // 10))

    def steps_per_epoch(self, rows: int) -> int:
        """Steps of an epoch over so many rows, of which the validation share is taken."""
        return max(self._fitted(rows) // self.rows_a_step(rows), 1)

    def _fitted(self, rows: int) -> int:
        return int(rows * (1 - self.validation_share))


def budget_points(budget: Budget) -> list[float]:
    """A budget alone, or the middle, low and high end of a range.

    >>> budget_points((0.2, 0.6)), budget_points(0.3)
    ([0.4, 0.2, 0.6], [0.3])
    """
    if isinstance(budget, tuple):
        low, high = budget
        return list(dict.fromkeys([(low + high) / 2, low, high]))
    return [budget]

"""What simulated users' true outcomes say of a policy, where `evaluation` has a trial's."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd

from tfalloc.datasets import Simulation
from tfalloc.evaluation import aucc


def at_equal_cost(
    reached: pd.DataFrame, arm_response: np.ndarray, arm_cost: np.ndarray
) -> np.ndarray:
    """Response per user at the budgets themselves, [budgets].

    What a model takes for the cheapest assignment may truly cost more than a budget. So that no
    method is credited with money it should not have spent, such an assignment is drawn for as many
    users as the budget pays for, and the others get the cheapest arm.

    Args:
      reached: of `true_curve`.
      arm_response: [K], mean true response of each arm.
      arm_cost: [K], mean true cost.

    Example:
      >>> one = {"budget": 1.0, "response": 0.5, "cost": 3.0, "feasible": False}
      >>> at_equal_cost(pd.DataFrame([one]), np.array([0.1, 0.4]), np.array([0.0, 4.0])).round(4)
      array([0.2333])
    """
    arm = int(np.argmin(arm_cost))
    budget, response, cost = (reached[x].to_numpy() for x in ("budget", "response", "cost"))
    over = ~reached.feasible.to_numpy()
    share = np.divide(
        budget - arm_cost[arm], cost - arm_cost[arm], where=over, out=np.ones_like(cost)
    )
    mixed: np.ndarray = arm_response[arm] + share * (response - arm_response[arm])
    return np.where(over, mixed, response)


def true_aucc(score: np.ndarray, users: Simulation) -> float:
    """AUCC with every user's true outcomes under both arms in place of a trial.

    Each user stands in both arms with expected outcomes, so that the uplift of a prefix is the sum
    of true uplifts: dC(k) = sum_{i<=k} (c_i1 - c_i0) / N, dR likewise.

    Args:
      score: [users], higher ranks first.
      users: a simulation of two arms.
    """
    both = {
        "treatment": np.repeat([0, 1], len(users)),
        "response": np.ravel(users.true_response.T),
        "cost": np.ravel(users.true_cost.T),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the noise of a trial, which this is not
        return float(aucc(np.tile(score, 2), both).value)

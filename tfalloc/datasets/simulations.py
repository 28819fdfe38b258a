"""Three simulated trials whose truth is known, and what all simulations have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tfalloc.data import RCTData

_FIVE = 5
_GAIN = 0.38427  # G of `five_arms`
_DOSES = np.array([0.0, 1.0, 2.0])
_MOST_COINS = 29.0
_PLATFORMS = np.array(["android", "ios", "web"], object)


@dataclass(frozen=True)
class Simulation:
    """A simulated trial with its ground truth.

    Attributes:
      data: the trial.
      true_response: expected response of every user under every arm, float32 [N, K].
      true_cost: expected cost per user under every arm, float32 [N, K].
    """

    data: RCTData
    true_response: np.ndarray
    true_cost: np.ndarray

    def __len__(self) -> int:
        return len(self.true_response)


@dataclass(frozen=True)
class Draw:
    """Rows of a simulation before they become `RCTData`: columns and ground truth."""

    features: Mapping[str, np.ndarray]
    treatment: np.ndarray
    response: np.ndarray
    cost: np.ndarray
    true_response: np.ndarray
    true_cost: np.ndarray

    def simulation(self, names: list[str], shares: np.ndarray) -> Simulation:
        """Wraps the rows; propensities are those of the design, not the observed shares."""
        data = RCTData(
            dict(self.features),
            self.treatment,
            self.response,
            self.cost,
            propensity=dict(zip(names, shares.tolist(), strict=True)),
            treatment_names=names,
        )
        return Simulation(data, self.true_response, self.true_cost)


def generator(name: str, seed: int, stream: int = 0) -> np.random.Generator:
    """Returns a counter-based generator that depends on the simulation, seed and stream only."""
    salt = int.from_bytes(name.encode()[:8], "little")
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, salt, stream])))


def check_rows(num_rows: int, least: int) -> None:
    """Raises ValueError unless `num_rows` is an integer of at least `least`."""
    if num_rows != int(num_rows) or num_rows < least:
        raise ValueError(f"num_rows={num_rows!r}; expected an integer of at least {least}.")


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Returns 1 / (1 + exp(-x)) without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def received(table: np.ndarray, treatment: np.ndarray) -> np.ndarray:
    """Returns table[i, treatment[i]] for each row, [N]."""
    return np.take_along_axis(table, treatment[:, None], axis=1)[:, 0]


def five_arms(num_rows: int = 10_000, seed: int = 0) -> Simulation:
    """Simulates a small trial of five arms with features, for examples and tests.

    Arm j costs j for certain, all arms are equally likely. With eight independent standard
    normals u,

        a = sigmoid(-2.6 + .5 u0 + .4 u1 u2)                       response without incentive
        g = G (1 - a) sigmoid(1.2 u3 + .8 u4 - .8 1{u5 > 0})       most that incentives add
        r = exp(-.6 + .7 u6 + .4 u0)                               how soon they saturate
        v_j = a + g (1 - exp(-r j)) / (1 - exp(-4 r))              j = 0 .. 4

    v increases in j and is concave; users differ in level, size and shape; u7 is noise. G makes the
    exact allocation of the population at a budget of 2.0 per user worth .2123.

    Args:
      num_rows: N, at least 50 so that every arm has rows.
      seed: the same seed gives the same data.

    Returns:
      A `Simulation` with features u0 … u7, cost j for arm j, and binary response.

    Raises:
      ValueError: `num_rows` is too small.

    Example:
      >>> simulation = five_arms(num_rows=1000, seed=1)
      >>> simulation.true_response.shape, simulation.true_cost[0].tolist()
      ((1000, 5), [0.0, 1.0, 2.0, 3.0, 4.0])
    """
    check_rows(num_rows, 50)
    rng = generator("synthetic", seed)  # its name once; another one would give other rows
    u = rng.standard_normal((num_rows, 8), "f4")
    response = _five_arm_response(u)
    cost = np.tile(np.arange(_FIVE, dtype="f4"), (num_rows, 1))
    treatment = rng.integers(0, _FIVE, num_rows, "i4")
    outcome = rng.random(num_rows) < received(response, treatment)
    drawn = Draw(
        {f"u{j}": u[:, j] for j in range(8)},
        treatment,
        outcome.astype("f4"),
        treatment.astype("f4"),
        response.astype("f4"),
        cost,
    )
    names = [str(j) for j in range(_FIVE)]
    return drawn.simulation(names, np.full(_FIVE, 1 / _FIVE))


def _five_arm_response(u: np.ndarray) -> np.ndarray:
    """Returns v_gt [N, 5] for features u [N, 8]."""
    a = sigmoid(-2.6 + 0.5 * u[:, 0] + 0.4 * u[:, 1] * u[:, 2])
    g = _GAIN * (1 - a) * sigmoid(1.2 * u[:, 3] + 0.8 * u[:, 4] - 0.8 * (u[:, 5] > 0))
    r = np.exp(-0.6 + 0.7 * u[:, 6] + 0.4 * u[:, 0])[:, None]
    arm = np.arange(_FIVE)
    return a[:, None] + g[:, None] * (-np.expm1(-r * arm)) / (-np.expm1(-4 * r))


def well_specified(num_rows: int = 100_000, seed: int = 0) -> Simulation:
    """Simulates a trial in which a logistic regression per arm is the truth.

    With standard normals x0 … x7, three arms, d = (0, 1, 2), drawn with equal probability:

        v_j = sigmoid(-2.4 + .5 x0 - .4 x1 + .2 x4 + d_j (.25 + .30 x2 - .25 x3 + .15 x0))
        p_j = sigmoid(-1.2 + .4 x4 + .3 x5 + .2 d_j (1 + x2))              response v, use p
        cost = d_j times use

    Response and use are independent given features and arm. Both logits are linear in x within each
    arm, so maximum likelihood is efficient, and predictions need no help from the objective.

    Args:
      num_rows: N, at least 60.
      seed: the same seed gives the same data.

    Returns:
      A `Simulation` with features x0 … x7 and three treatments; x6 and x7 are noise.

    Raises:
      ValueError: `num_rows` is too small.

    Example:
      >>> well_specified(num_rows=1000).true_cost.shape
      (1000, 3)
    """
    check_rows(num_rows, 60)
    rng = generator("wellspec", seed)
    x = rng.standard_normal((8, num_rows), "f4")
    response, use = _well_specified_outcomes(x)
    treatment = rng.integers(0, len(_DOSES), num_rows, "i4")
    responded = rng.random(num_rows) < received(response, treatment)
    used = rng.random(num_rows) < received(use, treatment)
    drawn = Draw(
        {f"x{j}": x[j] for j in range(8)},
        treatment,
        responded.astype("f4"),
        (_DOSES[treatment] * used).astype("f4"),
        response.astype("f4"),
        (_DOSES * use).astype("f4"),
    )
    return drawn.simulation([f"{dose:g}" for dose in _DOSES], np.full(3, 1 / 3))


def _well_specified_outcomes(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns expected response and probability of use, both [N, 3], for x [8, N]."""
    x = x.astype("f8")
    effect = 0.25 + 0.30 * x[2] - 0.25 * x[3] + 0.15 * x[0]
    base = -2.4 + 0.5 * x[0] - 0.4 * x[1] + 0.2 * x[4]
    response = sigmoid(base[:, None] + np.outer(effect, _DOSES))
    use = sigmoid((-1.2 + 0.4 * x[4] + 0.3 * x[5])[:, None] + 0.2 * np.outer(1.0 + x[2], _DOSES))
    return response, use


def produce_coin(num_rows: int = 100_000, seed: int = 0, num_treatments: int = 30) -> Simulation:
    """Simulates coins paid on response: many arms, a response that is not concave in them.

    Arm j of K offers coins_j = 29 j / (K - 1), all arms equally likely. With standard normals
    u0 … u7 and a platform s in {android .6, ios .3, web .1},

        a   = sigmoid(-4 + .5 u0 + .3 u1 u2 + .4 1{s = ios})            response without coins
        b   = .175 (1 - a) sigmoid(.9 u3 - .7 1{s = web} + .6 1{u4 > .5}) most that coins add
        m   = log 10 + .45 u5 - .3 u0                                   threshold, in log coins
        k   = 2 + exp(.8 + .4 u6)                                       steepness
        v_j = a + b sigmoid(k (log(1 + coins_j) - m))                   true response

    a sigmoid in log coins: below a user's threshold more coins do nothing, so v is increasing and
    not concave. u7 is noise. Coins are spent only on response: cost = coins x response, and its
    expectation is coins_j v_j. A user given a middle arm (about 14 coins) spends about 1.2.

    Args:
      num_rows: N, at least 20 per arm so that every arm has rows.
      seed: the same seed gives the same data.
      num_treatments: K, at least 2.

    Returns:
      A `Simulation` with features u0 … u7 and the string "platform"; cost in coins per user.

    Raises:
      ValueError: `num_rows` or `num_treatments` is too small.

    Example:
      >>> simulation = produce_coin(num_rows=2000, num_treatments=3)
      >>> simulation.data.treatment_names
      ['0', '14.5', '29']
    """
    if num_treatments != int(num_treatments) or num_treatments < 2:
        raise ValueError(f"num_treatments={num_treatments!r}; expected an integer of at least 2.")
    check_rows(num_rows, 20 * num_treatments)
    rng = generator("produce", seed)
    u = rng.standard_normal((num_rows, 8), "f4")
    platform = np.searchsorted([0.6, 0.9], rng.random(num_rows), side="right")
    coins = _MOST_COINS * np.arange(num_treatments) / (num_treatments - 1)
    response = _coin_response(u, platform, coins)
    treatment = rng.integers(0, num_treatments, num_rows, "i4")
    outcome = (rng.random(num_rows) < received(response, treatment)).astype("f4")
    drawn = Draw(
        {**{f"u{j}": u[:, j] for j in range(8)}, "platform": _PLATFORMS[platform]},
        treatment,
        outcome,
        (coins[treatment] * outcome).astype("f4"),
        response.astype("f4"),
        (coins * response).astype("f4"),
    )
    names = [f"{value:.6g}" for value in coins]
    return drawn.simulation(names, np.full(num_treatments, 1 / num_treatments))


def _coin_response(u: np.ndarray, platform: np.ndarray, coins: np.ndarray) -> np.ndarray:
    """Returns v [N, K] for features u [N, 8], platform index [N] and coins [K]."""
    a = sigmoid(-4 + 0.5 * u[:, 0] + 0.3 * u[:, 1] * u[:, 2] + 0.4 * (platform == 1))
    b = 0.175 * (1 - a) * sigmoid(0.9 * u[:, 3] - 0.7 * (platform == 2) + 0.6 * (u[:, 4] > 0.5))
    m = np.log(10) + 0.45 * u[:, 5] - 0.3 * u[:, 0]
    k = 2 + np.exp(0.8 + 0.4 * u[:, 6])
    reached = sigmoid(k[:, None] * (np.log1p(coins)[None, :] - m[:, None]))
    return a[:, None] + b[:, None] * reached

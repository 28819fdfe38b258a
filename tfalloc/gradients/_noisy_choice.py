"""Probabilities of the arm with the largest noisy score, and their derivatives.

Arm j of a user has score m_j = v_j - alpha c_j plus independent noise; p_j is the probability that
it wins. For coefficients a_j, the derivative of sum_j a_j p_j with respect to every score m_k:

    softmax (Gumbel noise of scale s):
        p_j = exp(m_j / s) / sum_k exp(m_k / s)
        d_k = (p_k / s) (a_k - sum_j a_j p_j)

    normal noise of standard deviation s, two arms:
        p_0 = Phi(e),  e = (m_0 - m_1) / (s sqrt 2)
        d_k = phi(e) / (s sqrt 2) (a_k - a_other)

    normal noise, any number of arms; x is the winning score in units of s, u_j = x - m_j / s,
    F = prod_j Phi(u_j) its distribution function, h_j = phi(u_j) / Phi(u_j):
        p_j = integral F h_j dx
        d_k = (1/s) integral F h_k (a_k sum_j h_j - sum_j a_j h_j) dx

The last line needs no K x K Jacobian: the terms j = k cancel. Its integrand is analytic with
Gaussian tails, where the trapezoidal rule converges geometrically in 1 / spacing^2. All u_j stay
above the lower end of the grid, because x is counted from the best score: nothing underflows.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import tensorflow as tf

_LARGEST_EXPONENT = 600.0  # exp of it is finite, and so are sums of such
_SPAN = 7.0  # standard deviations around the best score; Phi(-7) = 1e-12


class Choice(NamedTuple):
    """Who wins.

    Attributes:
      probability: [B, K], p.
      pulled: [n, B, K], derivatives d_k of sum_j a_j p_j, for each of n sets of coefficients.
    """

    probability: tf.Tensor
    pulled: tf.Tensor


def softmax_choice(score: tf.Tensor, scale: tf.Tensor, coefficients: tf.Tensor) -> Choice:
    """Softmax of score / scale.

    Args:
      score: [B, K] float64.
      scale: scalar float64, in units of the score.
      coefficients: [n, B, K] float64, a.
    """
    probability = tf.nn.softmax(score / scale, axis=-1)
    mean = tf.reduce_sum(coefficients * probability, axis=-1, keepdims=True)
    return Choice(probability, probability * (coefficients - mean) / scale)


def softmax_received(
    gain: tf.Tensor, motion: tf.Tensor, scale: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Probability of one arm per row, and its derivative along a motion of the scores, [B] each.

    p = 1 / sum_k exp(gain_k / s),     dp = -(p / s) sum_k p_k motion_k

    One pass over the arms; nothing of size [B, K] is kept, which makes it a third of the time of
    `softmax_choice`.

    Args:
      gain: [B, K] float64, scores minus that arm's.
      motion: [B, K] float64, how `gain` moves.
      scale: scalar float64, in units of the score.
    """
    odds = tf.exp(tf.minimum(gain / scale, _LARGEST_EXPONENT))
    total = tf.reduce_sum(odds, axis=-1)
    probability = 1.0 / total
    return probability, -probability / scale * (tf.reduce_sum(odds * motion, axis=-1) / total)


def gaussian_choice(
    score: tf.Tensor, scale: tf.Tensor, coefficients: tf.Tensor, num_nodes: int
) -> Choice:
    """Independent normal noise of standard deviation `scale` on every score.

    Args:
      score: [B, K] float64.
      scale: scalar float64, in units of the score.
      coefficients: [n, B, K] float64, a.
      num_nodes: nodes of the quadrature; two arms need none.
    """
    if score.shape[1] == 2:
        return _two_arms(score, scale, coefficients)
    return _quadrature(score, scale, coefficients, num_nodes)


def _two_arms(score: tf.Tensor, scale: tf.Tensor, coefficients: tf.Tensor) -> Choice:
    spread = scale * math.sqrt(2.0)
    lead = (score - tf.reverse(score, [1])) / spread
    slope = _density(lead) / spread
    return Choice(_distribution(lead), slope * (coefficients - tf.reverse(coefficients, [2])))


def _quadrature(
    score: tf.Tensor, scale: tf.Tensor, coefficients: tf.Tensor, num_nodes: int
) -> Choice:
    spacing = 2.0 * _SPAN / (num_nodes - 1)
    behind = (tf.reduce_max(score, axis=1, keepdims=True) - score) / scale

    def add_node(node, probability, pulled):
        u = behind + (spacing * tf.cast(node, tf.float64) - _SPAN)
        phi, below = _density(u), _distribution(u)
        hazard = phi / below
        win = tf.reduce_prod(below, axis=1, keepdims=True) * hazard * spacing
        every = tf.reduce_sum(hazard, axis=1, keepdims=True)
        weighted = tf.reduce_sum(coefficients * hazard, axis=2, keepdims=True)
        return node + 1, probability + win, pulled + win * (coefficients * every - weighted)

    # A loop over nodes, so that memory is that of one [n, B, K] whatever their number.
    _, probability, pulled = tf.while_loop(
        lambda node, *_: node < num_nodes,
        add_node,
        (0, tf.zeros_like(behind), tf.zeros_like(coefficients)),
    )
    return Choice(probability, pulled / scale)


def _density(u: tf.Tensor) -> tf.Tensor:
    return tf.exp(-0.5 * u * u) / math.sqrt(2.0 * math.pi)


def _distribution(u: tf.Tensor) -> tf.Tensor:
    return 0.5 * tf.math.erfc(-u / math.sqrt(2.0))

"""One batch over the replicas of a `tf.distribute` strategy: what they share, and how they train.

Every replica holds some rows of the global batch. Means and squared norms over the batch are sums
of the replicas' shares; the expected outcome Q is not, since the price that meets the budget
depends on all rows: so predictions and targets of the whole batch are gathered on every replica,
each differentiates the same Q and keeps the derivatives of its own rows. Keras' optimizers add up
the gradients of the replicas, so each one's loss is its share of the global loss, not a mean.

    R replicas, N rows:  loss = sum_r [ sum_{i in r} w_i e_i / sum_i w_i  -  surrogate of rows in r
                                        + weight penalties / R ]

With one replica all of this is the identity and adds nothing to the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def count() -> int:
    """Number of replicas R of the strategy in scope or running; 1 without one."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def _context() -> Any:
    """The replica running this code; None if it is the only one, or outside of a step."""
    return tf.distribute.get_replica_context() if count() > 1 else None


def total(shares: Any) -> Any:
    """The sum over replicas of a tensor or a structure of tensors; not differentiable."""
    replica = _context()
    if replica is None:
        return shares
    shares = tf.nest.map_structure(tf.stop_gradient, shares)
    return replica.all_reduce(tf.distribute.ReduceOp.SUM, shares)


def mean(rows: tf.Tensor, weight: Any = None) -> tf.Tensor:
    """This replica's share of the mean over the global batch; the shares add up to it.

    Args:
      rows: [own].
      weight: [own], what a row counts; None: all the same.
    """
    if _context() is None and weight is None:
        return tf.reduce_mean(rows)
    weight = tf.ones_like(rows) if weight is None else tf.cast(weight, rows.dtype)
    return tf.reduce_sum(rows * weight) / total(tf.reduce_sum(weight))


def gather(rows: list[Any]) -> tuple[list[Any], Callable[[tf.Tensor], tf.Tensor]]:
    """The rows of all replicas, in their order in the global batch.

    Args:
      rows: this replica's columns, each [own] or [own, width] of numbers that float32 holds, or
        None.

    Returns:
      The same columns with N rows, and a function that picks this replica's rows out of N.
    """
    replica = _context()
    if replica is None:
        return rows, lambda tensor: tensor
    # One float32 matrix: a collective costs a synchronisation, whatever it carries.
    given = [x for x in rows if x is not None]
    columns = [x if x.shape.rank == 2 else x[:, None] for x in given]
    packed = tf.concat([tf.cast(tf.stop_gradient(x), tf.float32) for x in columns], 1)
    whole = replica.all_gather(packed, axis=0)
    parts = iter(tf.split(whole, [x.shape[1] for x in columns], 1))
    gathered: list[Any] = []
    for x in rows:
        if x is None:
            gathered.append(None)
            continue
        part = tf.cast(next(parts), x.dtype)
        gathered.append(part if x.shape.rank == 2 else part[:, 0])
    sizes = replica.all_gather(tf.shape(packed)[:1], axis=0)
    end = tf.cumsum(sizes)[replica.replica_id_in_sync_group]
    return gathered, lambda tensor: tensor[end - tf.shape(packed)[0] : end]


def check_optimizer(optimizer: Any) -> None:
    """Refuses clipping over several replicas: Keras clips each share before it adds them up.

    Raises:
      ValueError: if the optimizer clips and there are several replicas.
    """
    for name in ("clipnorm", "clipvalue", "global_clipnorm"):
        value = getattr(optimizer, name, None)
        if count() > 1 and value is not None:
            raise ValueError(
                f"optimizer with {name}={value!r}: Keras clips each replica's share of the "
                "gradient, not the gradient; expected an optimizer without clipping over "
                f"{count()} replicas."
            )


def by_rows(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Splits batches, not files, among workers: each reads all rows and keeps its share."""
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return dataset.with_options(options)


def train_function(model: Any) -> Callable[[Any], dict[str, Any]]:
    """What Keras' `fit` calls with an iterator of distributed batches.

    Keras' own averages the logs of the replicas, which fails across processes. Here they are equal
    on all replicas, and those of the first one here are taken.
    """
    strategy = model.distribute_strategy

    def step(batch: Any) -> dict[str, Any]:
        logs = strategy.run(model.train_step, args=(batch,))
        return {name: strategy.experimental_local_results(x)[0] for name, x in logs.items()}

    if not model.run_eagerly:
        step = tf.function(step, reduce_retracing=True)

    def steps(iterator: Any) -> dict[str, Any]:
        logs = step(next(iterator))
        for _ in range(1, model.steps_per_execution):
            try:
                batch = next(iterator)
            except (StopIteration, tf.errors.OutOfRangeError):
                break
            logs = step(batch)
        return logs

    return steps

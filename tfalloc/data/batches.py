"""Blocks to `tf.data` batches.

Python gathers a whole batch with NumPy and hands TensorFlow a few packed arrays; a parallel map
splits them into named columns. So the price of crossing from Python is paid once per batch.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfalloc.data.rows import Block
from tfalloc.data.schema import Schema

_CHUNK_ROWS = 16_384


def make_dataset(
    source: Any,
    schema: Schema,
    num_rows: int,
    batch_size: int,
    *,
    shuffle: bool,
    seed: int,
    drop_remainder: bool,
    repeat: bool,
    epoch_varying: bool,
    start: tuple[int, int],
) -> tf.data.Dataset:
    """Returns the dataset that `RCTData.batches` documents.

    Args:
      source: has `epoch(batch_size, generator, first_row)`, an iterator of blocks; what goes
        wrong in it is left in `source.failure`, because TensorFlow makes its own error of it.
      schema: names the columns.
      num_rows: rows in `source`.
      batch_size, shuffle, seed, drop_remainder, repeat, epoch_varying, start: as
        `RCTData.batches`.
    """
    if batch_size != int(batch_size) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r}; expected a positive integer.")
    if drop_remainder and batch_size > num_rows:
        raise ValueError(
            f"batch_size={batch_size} exceeds the {num_rows} rows, and drop_remainder=True would "
            "leave no batch; expected a smaller batch_size or drop_remainder=False."
        )
    batch_size = int(batch_size)
    count = num_rows // batch_size if drop_remainder else -(-num_rows // batch_size)
    first_epoch, first_batch = start
    if first_epoch < 0 or not 0 <= first_batch < max(count, 1):
        raise ValueError(
            f"start={start!r}; expected (epoch, batch) from (0, 0); an epoch has {count} batches."
        )
    # Crossing from Python costs about a millisecond however much crosses: small batches go together
    # as [batches, batch, columns], and TensorFlow takes them apart.
    together = max(1, _CHUNK_ROWS // batch_size)
    # TensorFlow keeps what generates for ever, with all that it refers to (its graph of Python
    # functions has the life of the process). So the rows are in a box, which is emptied with the
    # dataset: one training after another would fill the memory with copies of its data.
    box = [source]
    del source
    started = 0  # epochs begun on this dataset, one for each iterator unless `repeat`

    def pack(block: Block, size: int) -> tuple[np.ndarray, ...]:
        targets = [block.response, block.cost, block.propensity]
        if block.weight is not None:
            targets.append(block.weight)
        count = len(block) // size
        packed = [
            block.treatment.reshape(count, size),
            np.stack([target.reshape(count, size) for target in targets], axis=1),
        ]
        if schema.numeric:
            packed.append(block.numeric.reshape(count, size, len(schema.numeric)))
        if schema.strings:
            packed.append(block.codes.reshape(count, size, len(schema.strings)))
        if block.cluster is not None:
            packed.append(block.cluster.reshape(count, size))
        return tuple(packed)

    def generate() -> Iterator[tuple[np.ndarray, ...]]:
        nonlocal started
        (source,) = box
        source.failure = None
        begun = 0 if repeat else started  # an endless stream is the same whoever iterates over it
        started += 1
        epoch, skipped = first_epoch + begun, 0 if begun else first_batch
        while True:
            generator = None
            if shuffle:
                number = epoch if epoch_varying else 0
                generator = np.random.Generator(
                    np.random.Philox(np.random.SeedSequence([seed % 2**63, number]))
                )
            try:
                for block in source.epoch(together * batch_size, generator, skipped * batch_size):
                    whole = len(block) - len(block) % batch_size
                    if whole:
                        yield pack(block.at(slice(0, whole)), batch_size)
                    if whole < len(block) and not drop_remainder:
                        yield pack(block.at(slice(whole, None)), len(block) - whole)
            except Exception as error:
                source.failure = error
                raise
            if not repeat:
                return
            epoch, skipped = epoch + 1, 0

    rows = batch_size if drop_remainder else None
    num_targets = 4 if schema.weighted else 3
    signature = [
        tf.TensorSpec([None, rows], tf.int32),
        tf.TensorSpec([None, num_targets, rows], tf.float32),
    ]
    # A component without columns would be empty, and `unbatch` crashes on empty tensors (TF 2.21).
    if schema.numeric:
        signature.append(tf.TensorSpec([None, rows, len(schema.numeric)], tf.float32))
    if schema.strings:
        signature.append(tf.TensorSpec([None, rows, len(schema.strings)], tf.int32))
    if schema.clustered:
        signature.append(tf.TensorSpec([None, rows], tf.int64))
    dataset = tf.data.Dataset.from_generator(generate, output_signature=tuple(signature)).unbatch()
    vocabularies = {name: tf.constant(schema.categories[name]) for name in schema.strings}

    def unpack(treatment: Any, targets: Any, *packed: Any) -> tuple[Any, ...]:
        if schema.matrix:
            # A trial without features has no component for them.
            features = packed[0] if packed else tf.zeros([tf.shape(treatment)[0], 0])
        else:
            columns: dict[str, Any] = {}
            if schema.numeric:
                numeric = tf.unstack(packed[0], axis=1)
                columns.update(zip(schema.numeric, numeric, strict=True))
            if schema.strings:
                codes = tf.unstack(packed[1 if schema.numeric else 0], axis=1)
                for name, code in zip(schema.strings, codes, strict=True):
                    columns[name] = tf.gather(vocabularies[name], code)
            features = {name: columns[name] for name in schema.kinds}
        labels = {
            "treatment": treatment,
            "response": targets[0],
            "cost": targets[1],
            "propensity": targets[2],
        }
        if schema.clustered:
            labels["cluster"] = packed[-1]
        return (features, labels, targets[3]) if schema.weighted else (features, labels)

    dataset = dataset.map(unpack, num_parallel_calls=2, deterministic=True)
    if repeat:
        count = int(tf.data.INFINITE_CARDINALITY)
    if repeat or not first_batch:  # else the first iteration is shorter than the others
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))
    dataset = dataset.prefetch(2)
    # Iterators and derived datasets refer to it, so it lives as long as anything may ask for rows.
    weakref.finalize(dataset, box.clear).atexit = False
    return dataset

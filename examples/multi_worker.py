"""Trains one model on several machines: the same program on each, with its own --index.

On one machine, for a try:

    python examples/multi_worker.py --workers localhost:7101,localhost:7102 --index 1 &
    python examples/multi_worker.py --workers localhost:7101,localhost:7102 --index 0

Without --workers it trains alone, on the same batches. Every worker reads all the rows and keeps
its share of each batch; validation is done by each on all validation rows, so that all of them
stop, and keep the best weights, at the same epoch. The first worker writes the model.
"""

from __future__ import annotations

import argparse
import json
import os

import tensorflow as tf

import tfalloc

GRADIENTS = {
    "finite_difference": tfalloc.gradients.FiniteDifference,
    "integrated": tfalloc.gradients.Integrated,
}


def main() -> None:
    """Trains, prints losses and goals of each epoch as one line of JSON, and saves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", help="host:port of each, separated by commas")
    parser.add_argument("--index", type=int, default=0, help="which of them this one is")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--batch-size", type=int, default=10_000, help="of all workers together")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--gradient", choices=sorted(GRADIENTS), default="finite_difference")
    parser.add_argument("--output", help="where the first worker saves the model, *.keras")
    arguments = parser.parse_args()

    strategy = tf.distribute.get_strategy()
    if arguments.workers:
        task = {"type": "worker", "index": arguments.index}
        cluster = {"worker": arguments.workers.split(",")}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
        strategy = tf.distribute.MultiWorkerMirroredStrategy()  # before any other TensorFlow call

    data = tfalloc.datasets.five_arms(arguments.rows, seed=0).data
    with strategy.scope():
        model = tfalloc.AllocationModel(data.num_treatments, backbone="small", seed=0)
        model.compile(goal_weight=0.5, budget=(1.5, 2.5), gradient=GRADIENTS[arguments.gradient]())
    history = model.fit(
        data, batch_size=arguments.batch_size, epochs=arguments.epochs, verbose=0
    ).history
    print(json.dumps({name: history[name] for name in ("loss", "goal", "val_loss", "val_goal")}))
    if arguments.output and arguments.index == 0:
        model.save(arguments.output)


if __name__ == "__main__":
    main()

"""What a training run costs: rows per second, peak memory, and how long the paper's would take.

    python benchmarks/training.py [--rows 13979592] [--data FILE] [--json FILE]

Every run is a process of its own, so that its peak memory is its own, and reports the median time
between steps of `model.fit` after compilation (paper's network, B = 10,000, XLA):

  steps     two-stage and each gradient, K = 2 and K = 30, rows in memory; ratios to two-stage
  pipeline  batches alone, preprocessing included, from memory and from Parquet, against the rate
            at which the two-stage step takes them
  epoch     one epoch with finite differences on every entry, from a Parquet file of 14 million
            rows that is read as a stream; and what that makes of the paper's protocol (10 epochs of
            9.8 million rows; the paper: 17.6 hours on a T4 with 4,000 entries)
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import peak_mib, write_json

BATCH = 10_000
STEPS = 40
WARM = 10  # batches before the clock starts
PAPER_ROWS = 10 * 9_800_000
GRADIENTS = ("two-stage", "FiniteDifference", "Smoothed", "Integrated", "NES")


def build(arms: int, gradient: str, budget: float) -> Any:
    """The paper's network with one of the gradients."""
    import tfalloc

    model = tfalloc.AllocationModel(arms, "paper", seed=0)
    end_to_end = gradient != "two-stage"
    model.compile(
        goal_weight=1.0 if end_to_end else 0.0,
        budget=budget,
        gradient=getattr(tfalloc.gradients, gradient)() if end_to_end else None,
    )
    return model


def timer() -> Any:
    """A callback that keeps the seconds between ends of steps."""
    import keras

    class Timer(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.ends: list[float] = []

        def on_train_batch_end(self, batch, logs=None):
            self.ends.append(time.perf_counter())

        def seconds(self) -> float:
            # The first steps compile and fill the pipeline.
            skip = min(5, len(self.ends) // 4)
            pairs = zip(self.ends[skip:], self.ends[skip + 1 :], strict=False)
            return statistics.median(b - a for a, b in pairs)

    return Timer()


def trial(arms: int, rows: int) -> tuple[Any, float]:
    """A simulated trial and a budget for it."""
    from tfalloc import datasets

    if arms == 2:
        return datasets.criteo_like(rows, seed=0).data, 0.04
    data = datasets.produce_coin(rows, num_treatments=arms, seed=0).data
    return data, 0.5 * float(data.arm_moments("cost").mean.max())


def one_epoch(model: Any, data: Any, clock: Any) -> None:
    """`fit` over all rows, once."""
    model.fit(
        data,
        batch_size=BATCH,
        epochs=1,
        validation_split=0.0,
        early_stopping=False,
        callbacks=[clock],
        verbose=0,
    )


def measure_steps(arms: int, gradient: str) -> dict[str, float]:
    """Rows a second of `fit` on rows in memory."""
    data, budget = trial(arms, STEPS * BATCH)
    model, clock = build(arms, gradient, budget), timer()
    one_epoch(model, data, clock)
    return {"step_seconds": clock.seconds(), "rows_per_second": BATCH / clock.seconds()}


def measure_pipeline(path: str | None) -> dict[str, float]:
    """Rows a second of the batches that `fit` reads, without a step."""
    from tfalloc.data.preprocessing import build_preprocessor
    from tfalloc.models.matrix_batches import as_batches

    rows = read(path) if path else trial(2, (WARM + 210) * BATCH)[0]
    batches = as_batches(
        rows, build_preprocessor(rows), BATCH, shuffle=True, seed=0, drop_remainder=True
    )
    seen, start = 0, 0.0
    for number, _ in enumerate(batches.take(WARM + 200)):
        if number == WARM:
            start = time.perf_counter()
        seen += number > WARM
    return {"rows_per_second": seen * BATCH / (time.perf_counter() - start)}


def read(path: str) -> Any:
    """The 14 million rows as a stream."""
    import tfalloc

    return tfalloc.RCTData.from_parquet(
        path,
        treatment="treatment",
        response="conversion",
        cost="visit",
        features=[f"f{i}" for i in range(12)],
        in_memory=False,
    )


def measure_epoch(path: str) -> dict[str, float]:
    """One epoch with every entry's finite difference, from Parquet."""
    data = read(path)
    model, clock = build(2, "FiniteDifference", 0.04), timer()
    start = time.perf_counter()
    one_epoch(model, data, clock)
    whole = time.perf_counter() - start
    rate = len(clock.ends) * BATCH / (clock.ends[-1] - clock.ends[0])
    return {
        "rows": len(data),
        "seconds": whole,
        "rows_per_second": rate,
        "paper_protocol_minutes": PAPER_ROWS / rate / 60,
    }


def run(*arguments: str) -> dict[str, float]:
    """One measurement in a process of its own, with its peak memory."""
    command = [sys.executable, __file__, "--measure", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(arguments: list[str]) -> None:
    """The child's side of `run`."""
    what, *rest = arguments
    if what == "steps":
        found = measure_steps(int(rest[0]), rest[1])
    elif what == "pipeline":
        found = measure_pipeline(rest[0] if rest else None)
    else:
        found = measure_epoch(rest[0])
    found["peak_mib"] = peak_mib()
    print(json.dumps(found))


def main() -> None:
    """Measures, prints three tables, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=13_979_592, help="rows of the Parquet file")
    parser.add_argument("--data", type=Path, default=None, help="where to keep that file")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure)
        return
    report: dict = {"steps": {}}
    for arms in (2, 30):
        print(f"\nfit, K = {arms}, B = {BATCH:,}, paper's network")
        base = None
        for gradient in GRADIENTS:
            found = run("steps", str(arms), gradient)
            base = base or found["rows_per_second"]
            found["ratio"] = base / found["rows_per_second"]
            report["steps"][f"K={arms},{gradient}"] = found
            print(
                f"  {gradient:18s} {found['rows_per_second']:10,.0f} rows/s  "
                f"{found['ratio']:5.2f} x two-stage's time  peak {found['peak_mib']:6,.0f} MiB"
            )
    with tempfile.TemporaryDirectory() as folder:
        path = options.data or Path(folder) / "criteo_like.parquet"
        if not path.exists():
            print(f"\nwriting {options.rows:,} rows to {path} …", flush=True)
            from tfalloc import datasets

            datasets.criteo_like_parquet(path, options.rows, seed=0)
        step = report["steps"]["K=2,two-stage"]["rows_per_second"]
        report["pipeline"] = {}
        print("\nbatches alone, K = 2 (12 numeric columns, preprocessing included)")
        for name, where in (("memory", ()), ("Parquet", (str(path),))):
            found = run("pipeline", *where)
            found["times_the_step"] = found["rows_per_second"] / step
            report["pipeline"][name] = found
            print(
                f"  from {name:8s} {found['rows_per_second']:10,.0f} rows/s: "
                f"{found['times_the_step']:.1f} x what the two-stage step takes"
            )
        report["epoch"] = found = run("epoch", str(path))
    print(
        f"\none epoch of {found['rows']:,} rows from Parquet, finite differences on every entry:\n"
        f"  {found['seconds']:.0f} s, {found['rows_per_second']:,.0f} rows/s, "
        f"peak {found['peak_mib']:,.0f} MiB\n"
        f"  the paper's protocol (10 x 9.8 million rows) would take "
        f"{found['paper_protocol_minutes']:.0f} minutes here (paper: 17.6 hours)"
    )
    write_json(options.json, report)


if __name__ == "__main__":
    main()

"""Times what `import tfalloc` adds to importing its dependencies.

    python benchmarks/import_time.py --runs 5 --json import_time.json

Each figure is a fresh interpreter; cases alternate, so that a busy machine slows all of them alike.
Figures are medians in seconds: `import tfalloc` alone, after its dependencies, and the first use of
`AllocationModel` after both.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

from measuring import write_json

DEPENDENCIES = "import tensorflow, keras, pandas"
USE = "import tfalloc; tfalloc.AllocationModel"
CASES = {  # name: (what is imported first, untimed; what is timed)
    "dependencies": ("", DEPENDENCIES),
    "tfalloc": ("", "import tfalloc"),
    "tfalloc after its dependencies": (DEPENDENCIES, "import tfalloc"),
    "AllocationModel after its dependencies": (DEPENDENCIES, USE),
}
TIMED = """
import time
{first}
start = time.perf_counter()
{timed}
print(time.perf_counter() - start)
"""


def seconds(first: str, timed: str) -> float:
    """Returns the seconds that `timed` takes in a new interpreter that has run `first`."""
    root = str(Path(__file__).resolve().parents[1])
    result = subprocess.run(
        [sys.executable, "-c", TIMED.format(first=first, timed=timed)],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    return float(result.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()

    times: dict[str, list[float]] = {name: [] for name in CASES}
    for run in range(options.runs + 1):  # the first round only fills the file cache
        for name, (first, timed) in CASES.items():
            elapsed = seconds(first, timed)
            if run:
                times[name].append(elapsed)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        print(f"{name:40s} {median:8.3f} s")
    machine = {"python": platform.python_version(), "cpus": os.cpu_count()}
    report = {"machine": machine, "runs": options.runs, "median_seconds": medians}
    write_json(options.json, report)


if __name__ == "__main__":
    main()

"""What the benchmarks share: peak memory of this process, and the JSON file of a report."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any


def peak_mib() -> float:
    """The largest memory that this process has had, MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux ru_maxrss starts from the peak of the parent
        return float(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def write_json(path: Path | None, report: dict[str, Any]) -> None:
    """Writes a report and says so; nothing without a path."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"wrote {path}")

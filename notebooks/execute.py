"""Executes the notebooks: `python notebooks/execute.py` refreshes their outputs in place,
`--check` only proves that they run (with TFALLOC_FAST=1: at reduced size)."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError


def main() -> int:
    """Returns 1 if a notebook fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="do not write outputs back")
    check = parser.parse_args().check
    for path in sorted(Path(__file__).parent.glob("*.ipynb")):
        start = time.monotonic()
        notebook = nbformat.read(path, as_version=4)
        client = NotebookClient(
            notebook,
            timeout=1200,
            kernel_name="python3",
            resources={"metadata": {"path": str(path.parent)}},
        )
        try:
            client.execute()
        except CellExecutionError as error:
            print(f"{path.name}: failed\n{error}", file=sys.stderr)
            return 1
        print(f"{path.name}: ran in {time.monotonic() - start:.0f} s")
        if not check:
            for cell in notebook.cells:
                cell.metadata.pop("execution", None)  # times of this machine
                # What goes to stderr are TensorFlow's notes on the machine, not results.
                outputs = cell.get("outputs", [])
                if outputs:
                    cell.outputs = [o for o in outputs if o.get("name") != "stderr"]
            nbformat.write(notebook, path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

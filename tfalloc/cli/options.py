"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        show_default=False,
        help="CSV or Parquet, by suffix; a directory or a pattern is Parquet.",
    ),
]
RunDirectory = Annotated[
    Path, typer.Argument(metavar="DIR", show_default=False, help="What `tfalloc train` left.")
]
Budget = Annotated[
    str,
    typer.Option(
        metavar="B|LOW:HIGH",
        show_default=False,
        help="Cost per user, or a range of it.",
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an earlier output of the same name.")
]
Features = Annotated[
    str | None,
    typer.Option(metavar="A,B,C", help="Feature columns. (default: all without another role)"),
]
Exclude = Annotated[
    str | None,
    typer.Option(metavar="A,B,C", help="Columns that are no features: what comes after treatment."),
]
Treatments = Annotated[
    str | None, typer.Option(metavar="A,B,C", help="Labels of the treatments, in order.")
]
Propensity = Annotated[
    str | None,
    typer.Option(
        metavar="COL|MAPPING",
        help="Probability of the treatment received: a column, or 'A=0.15,B=0.85'.  "
        "(default: the observed shares)",
    ),
]
Weight = Annotated[str | None, typer.Option(metavar="COL", help="Column of row weights.")]
Missing = Annotated[
    str,
    typer.Option(
        metavar="error|indicator", help="Missing features: refuse them, or impute and mark them."
    ),
]
Seed = Annotated[int, typer.Option(help="Of everything random: the same seed repeats the run.")]
Jit = Annotated[bool, typer.Option(help="Compile the training step with XLA.")]

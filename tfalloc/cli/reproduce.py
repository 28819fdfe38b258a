"""`tfalloc reproduce`: each study to runs.json, table.md and figure.png."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from tfalloc.cli import console, errors
from tfalloc.cli.console import start_tensorflow

Output = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", show_default=False, help="Directory to leave.  (default: reproduce-STUDY)"
    ),
]
Seeds = Annotated[
    int | None,
    typer.Option(show_default=False, help="Repetitions, each with data and weights of its own."),
]
Epochs = Annotated[int | None, typer.Option(show_default=False, help="Of every training.")]
Rows = Annotated[int | None, typer.Option(show_default=False, help="Rows of a simulated trial.")]
Fast = Annotated[bool, typer.Option("--fast", help="Small enough for a try: shows no effect.")]
Restart = Annotated[bool, typer.Option("--restart", help="Throw away the runs of earlier calls.")]

Methods = Annotated[
    str | None,
    typer.Option(metavar="A;B;C", help="Some methods only, as the table names them."),
]
app = typer.Typer(
    no_args_is_help=True,
    help="Repeat a published experiment: runs.json, table.md and figure.png. Killed and started "
    "again with the same options, it goes on where it was.",
)


@app.command()
def synthetic(
    context: typer.Context,
    output: Output = None,
    seeds: Seeds = None,
    rows: Rows = None,
    fast: Fast = False,
    restart: Restart = False,
) -> None:
    """Climb the expected outcome on the predictions themselves (Yan et al. 2023, Fig. 2).

    With the true value of every step, which shows how much of the climb is overfitting.
    """
    start_tensorflow()
    from tfalloc.reproduce import synthetic as study

    settings = _changed(study.FAST if fast else study.Settings(), rows=rows)
    folder, seeds = output or Path("reproduce-synthetic"), _seeds(seeds, 2 if fast else 20)
    _complete(context, study.study, folder, restart, seeds=seeds, settings=settings)


@app.command()
def coin(
    context: typer.Context,
    output: Output = None,
    seeds: Seeds = None,
    rows: Rows = None,
    epochs: Epochs = None,
    net: Annotated[
        str,
        typer.Option(
            metavar="paper|ours",
            help="The paper's network and protocol, or a small one with heads made for coins.",
        ),
    ] = "paper",
    deploy: Annotated[
        str | None,
        typer.Option(
            metavar="W|best",
            show_default=False,
            help="goal_weight of the A/B test; best: by the estimate.  (default: 200)",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="0,W,...",
            show_default=False,
            help="goal_weight, 0 first.  (default: 0 and 1, 2, 5, 10 ... 5000)",
        ),
    ] = None,
    fast: Fast = False,
    restart: Restart = False,
) -> None:
    """The Produce-Coin campaign, simulated: response against goal_weight (Fig. 3), and an A/B test.

    30 arms of coins. The online test is between two exported SavedModels, each with users of its
    own.
    """
    start_tensorflow()
    from tfalloc.reproduce import coin as study

    nets = {"paper": study.PAPER, "ours": study.OURS}
    if net not in nets:
        raise ValueError(f"--net {net}: expected one of {list(nets)}.")
    settings = study.fast(nets[net]) if fast else nets[net]
    settings = _changed(settings, rows=rows, epochs=epochs)
    chosen = _weights(weights) or (study.FAST_WEIGHTS if fast else study.WEIGHTS)
    folder, seeds = output or Path("reproduce-coin"), _seeds(seeds, 2 if fast else 4)
    _complete(
        context,
        study.study,
        folder,
        restart,
        seeds=seeds,
        settings=settings,
        weights=chosen,
        deployed=_deployed(deploy, study.DEPLOYED if study.DEPLOYED in chosen else chosen[-1]),
    )


@app.command()
def criteo(
    context: typer.Context,
    output: Output = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Criteo Uplift v2.1, CSV (also .gz) or Parquet.  (default: a simulation of it)",
        ),
    ] = None,
    seeds: Seeds = None,
    rows: Rows = None,
    epochs: Epochs = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(show_default=False, help="Of the paper's network.  (default: 1e-4)"),
    ] = None,
    methods: Methods = None,
    fast: Fast = False,
    restart: Restart = False,
) -> None:
    """AUCC of two-stage, direct and end-to-end methods on Criteo Uplift (Table 1)."""
    _check_rows(rows, data)
    start_tensorflow()
    from tfalloc.reproduce import criteo as study

    settings = _changed(
        study.FAST if fast else study.Settings(),
        rows=rows,
        epochs=epochs,
        learning_rate=learning_rate,
    )
    _complete(
        context,
        study.study,
        output or Path("reproduce-criteo"),
        restart,
        seeds=_seeds(seeds, 2 if fast else 20),
        settings=settings,
        data=data,
        methods=_names(methods),
    )


def _check_rows(rows: int | None, data: Path | None) -> None:
    if data is not None and rows is not None:
        raise ValueError(f"--rows {rows} with --data {data}: the file has its own; leave one out.")


def _names(methods: str | None) -> list[str] | None:
    return None if methods is None else [name.strip() for name in methods.split(";")]


def _weights(given: str | None) -> list[float] | None:
    try:
        return None if given is None else [float(part) for part in given.split(",")]
    except ValueError:
        raise ValueError(
            f"--weights {given}: expected numbers with commas between, such as 0,0.1,1."
        ) from None


def _deployed(given: str | None, otherwise: float) -> float | None:
    if given is None:
        return otherwise
    if given == "best":
        return None
    try:
        return float(given)
    except ValueError:
        raise ValueError(f"--deploy {given}: expected a goal_weight or best.") from None


def _changed(settings: Any, **changes: Any) -> Any:
    """The settings with what was given; sizes are at least 1, rates above 0."""
    import dataclasses

    given = {name: value for name, value in changes.items() if value is not None}
    for name, value in given.items():
        if isinstance(value, int) and value < 1:
            raise ValueError(f"--{name} {value}: expected at least 1.")
        if isinstance(value, float) and not 0.0 < value < math.inf:
            raise ValueError(f"--{name.replace('_', '-')} {value:g}: expected a number above 0.")
    return dataclasses.replace(settings, **given)


def _seeds(given: int | None, otherwise: int) -> int:
    if given is not None and given < 1:
        raise ValueError(f"--seeds {given}: expected at least 1.")
    return otherwise if given is None else given


def _complete(
    context: typer.Context,
    study: Callable[..., Any],
    folder: Path,
    restart: bool,
    result: str = "figure.png",
    **options: Any,
) -> None:
    """Runs what is missing of a study and shows its table.

    On Ctrl-C it says where the finished runs are, and how to go on from them.
    """
    try:
        study(folder, restart=restart, command=errors.typed_command(context), **options)
    except KeyboardInterrupt:
        runs = folder / "runs.json"
        if not runs.exists():
            raise
        same = "the same command" + (" without --restart" if restart else "")
        raise errors.Interrupted(
            f"finished runs are in {runs}: {same} goes on from there."
        ) from None
    console.out().print((folder / "table.md").read_text("utf-8"), markup=False, soft_wrap=True)
    for name in ("table.md", result, "runs.json"):
        console.out().print(f"  {folder / name}", markup=False, soft_wrap=True)

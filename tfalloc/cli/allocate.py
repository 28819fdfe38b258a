"""`tfalloc allocate`: users in, one treatment for each of them within the budget out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tfalloc.cli import console, options
from tfalloc.cli.console import start_tensorflow
from tfalloc.training.run import Run

if TYPE_CHECKING:
    from tfalloc.scale import Plan


def allocate(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", show_default=False, help="A run of `train`, or a SavedModel of `export`."
        ),
    ],
    data: options.Data,
    output: Annotated[
        Path,
        typer.Option(metavar="FILE", show_default=False, help="To write: .csv or .parquet."),
    ],
    budget: Annotated[float | None, typer.Option(metavar="B", help="Cost per user.")] = None,
    total_budget: Annotated[
        float | None, typer.Option(metavar="T", help="Cost of all users together.")
    ] = None,
    id_column: Annotated[
        str | None, typer.Option("--id", metavar="COL", help="Column to copy; else row numbers.")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="COL", help="Column of users who get one treatment together."),
    ] = None,
    missing: Annotated[
        str | None,
        typer.Option(metavar="error|indicator", help="As in `train`. (default: as trained)"),
    ] = None,
    na: options.Na = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Give every user a treatment so that predicted spend stays within the budget.

    A run is solved exactly for these users, with a certificate. A SavedModel answers each user
    alone, at the price that its budget table holds, as it would when serving.
    """
    if not (model / "saved_model.pb").is_file():
        Run.read(model)
    options.check_data(data)
    console.note("starting TensorFlow …")
    start_tensorflow()
    from tfalloc.scale import allocate as allocate_users

    with console.err().status("predicting …") as status:
        plan = allocate_users(
            model,
            data,
            budget=budget,
            total_budget=total_budget,
            id_column=id_column,
            cluster=cluster,
            missing=missing,
            na=options.parse_list(na),
            output=output,
            overwrite=overwrite,
            progress=lambda done: status.update(f"predicting … {done:,} users"),
        )
    _print(plan)
    console.out().print(f"allocation is in {output}", markup=False, soft_wrap=True)


def _print(plan: Plan) -> None:
    rows = [
        [
            name,
            f"{count:,}",
            f"{count / plan.num_users:.1%}",
            console.number(response),
            console.number(cost),
        ]
        for name, count, response, cost in plan.mix()
    ]
    out = console.out()
    out.print(
        console.table(
            f"Treatments of {plan.num_users:,} users",
            ["treatment", "users", "share", "predicted response", "predicted cost"],
            rows,
            caption="Response and cost per user of that treatment.",
        )
    )
    n = plan.num_users
    share = "-" if plan.budget == 0 else f"{plan.cost / plan.budget:.1%}"
    facts = [
        ["budget", console.number(plan.budget, 6), console.number(plan.budget * n, 8)],
        [f"spend ({share} of it)", console.number(plan.cost, 6), console.number(plan.cost * n, 8)],
        ["response", console.number(plan.value, 6), console.number(plan.value * n, 8)],
    ]
    if plan.upper_bound is not None:
        gap = plan.upper_bound - plan.value
        facts += [
            [
                "upper bound of any allocation",
                console.number(plan.upper_bound, 6),
                console.number(plan.upper_bound * n, 8),
            ],
            ["gap to it", console.number(gap, 3), console.number(gap * n, 3)],
        ]
    facts.append(["alpha (response per unit of cost)", console.number(plan.alpha, 6), ""])
    out.print(console.table("Predicted outcome", ["", "per user", "total"], facts))
    if plan.alpha == 0:
        console.warn("the budget does not bind: no user would respond more to a dearer treatment.")
    from tfalloc.mckp.within_budget import FLOAT32_ROUNDING

    if plan.cost > plan.budget * (1 + FLOAT32_ROUNDING):
        console.warn(
            f"these users cost {plan.cost:.6g} each, more than the budget of {plan.budget:.6g}: "
            "the SavedModel's prices were set on other users; allocate with the run's directory "
            "to keep to the budget exactly, or export with these users as --population."
        )

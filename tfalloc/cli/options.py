"""Options that several commands share, those of a `Recipe`, and what their text means."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from tfalloc._files import is_csv
from tfalloc.training.recipe import Budget, Recipe, RecipeError

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
BudgetText = Annotated[
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
Positive = Annotated[
    str | None,
    typer.Option(metavar="LABEL", help="Label of the response that counts as 1, as in Yes and No."),
]
Cluster = Annotated[
    str | None,
    typer.Option(metavar="COL", help="Column of what was randomised together, such as households."),
]
Na = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,C", help="CSV fields that mean a missing value, beside the empty one."
    ),
]
Seed = Annotated[int, typer.Option(help="Of everything random: the same seed repeats the run.")]
Jit = Annotated[bool, typer.Option(help="Compile the training step with XLA.")]


def check_data(path: str) -> None:
    """Refuses a file that is not there, before TensorFlow takes its seconds to start.

    Raises:
      FileNotFoundError, ValueError: nothing there, or another suffix.
    """
    if is_csv(path) and not Path(path).is_file():
        raise FileNotFoundError(f"no CSV file at {path}; expected the path of a file.")


def recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command an option for every field of `Recipe`, and the recipe made of them.

    The command's parameter `recipe` is replaced by these options; --budget is its own. Texts of
    help are those of the fields in the docstring of `Recipe`.
    """
    hints = typing.get_type_hints(Recipe)
    help_of = _attributes(inspect.getdoc(Recipe) or "")
    parameters = []
    for field in dataclasses.fields(Recipe):
        if field.name == "budget":
            parameters.append(_keyword("budget", BudgetText, inspect.Parameter.empty))
            continue
        flag = f"--{field.name.replace('_', '-')}"
        kind, default = hints[field.name], field.default
        names = [flag] if default is False else []  # what is off has no --no-
        if field.name == "cost_amounts":
            kind = str | None
        about = typer.Option(
            *names, metavar=field.metadata.get("metavar"), help=help_of.get(field.name)
        )
        parameters.append(_keyword(field.name, Annotated[kind, about], default))

    def called(**given: Any) -> None:
        values = {field.name: given.pop(field.name) for field in dataclasses.fields(Recipe)}
        values["budget"] = parse_budget(values["budget"])
        values["cost_amounts"] = parse_numbers("--cost-amounts", values["cost_amounts"])
        try:
            given["recipe"] = Recipe(**values)
            command(**given)
        except RecipeError as error:
            flag = f"--{error.name.replace('_', '-')}"
            raise ValueError(f"{flag} {error.value}: expected {error.expected}.") from None

    own = inspect.signature(command, eval_str=True).parameters.values()
    required = [p for p in own if p.name != "recipe" and p.default is p.empty]
    others = [p for p in own if p.name != "recipe" and p.default is not p.empty]
    every = [*required, *parameters, *others]
    called.__name__, called.__doc__ = command.__name__, command.__doc__
    called.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in every]
    )
    called.__annotations__ = {p.name: p.annotation for p in every}
    return called


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _attributes(docstring: str) -> dict[str, str]:
    r"""{name: text} of the section "Attributes" of a docstring.

    >>> _attributes(
    ...     "What it is.\n\nAttributes:\n  a: one\n    line.\n  b: Two.\n\nExample:\n  c: no"
    ... )
    {'a': 'one line.', 'b': 'Two.'}
    """
    _, _, section = docstring.partition("Attributes:\n")
    found = re.findall(r"^ {2}(\w+): (.*(?:\n {4}.*)*)", section.split("\n\n")[0], re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def parse_budget(text: str) -> Budget:
    """Reads "B" or "LOW:HIGH", cost per user.

    Raises:
      ValueError: not a number or a range of finite numbers that are not negative.

    Example:
      >>> parse_budget("0.03:0.07"), parse_budget("2")
      ((0.03, 0.07), 2.0)
    """
    parts = text.split(":")
    numbers = [_number(part, f"--budget {text}") for part in parts]
    if len(numbers) > 2:
        raise ValueError(f"--budget {text}: expected a cost per user B, or a range LOW:HIGH.")
    for number in numbers:
        if not math.isfinite(number) or number < 0:
            raise ValueError(
                f"--budget {text}: expected a finite cost per user that is not negative."
            )
    if len(numbers) == 1:
        return numbers[0]
    low, high = numbers
    if low > high:
        raise ValueError(f"--budget {text}: expected LOW <= HIGH in LOW:HIGH.")
    return low, high


def parse_list(text: str | None) -> list[str] | None:
    """Reads "a,b,c"; None stays None. Blanks around an entry do not count, but in double quotes.

    Raises:
      ValueError: an empty entry.

    Example:
      >>> parse_list("recency, history"), parse_list('" mail", "a,b"')
      (['recency', 'history'], [' mail', 'a,b'])
    """
    if text is None:
        return None
    names = [_unquoted(entry) for entry in _entries(text)]
    if not all(names):
        raise ValueError(f"{text!r} has an empty entry; expected names separated by commas.")
    return names


def parse_numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """Reads "0,5,10"; None stays None.

    Raises:
      ValueError: an entry that is not a number.

    Example:
      >>> parse_numbers("--cost-amounts", "0, 5, 10")
      (0.0, 5.0, 10.0)
    """
    if text is None:
        return None
    return tuple(_number(entry, f"{option} {text}") for entry in text.split(","))


def parse_column_or_mapping(option: str, text: str | None) -> str | dict[str, float] | None:
    """Reads a column name, or "label=number,label=number" for a mapping by treatment.

    Args:
      option: name of the option, for messages.
      text: as typed; None stays None.

    Raises:
      ValueError: an entry of a mapping has no number, or a label occurs twice.

    Example:
      >>> parse_column_or_mapping("--cost", "No E-Mail=0,Mens E-Mail=0.1")
      {'No E-Mail': 0.0, 'Mens E-Mail': 0.1}
      >>> parse_column_or_mapping("--cost", '" mail"=0.1,"a=b, c"=2')
      {' mail': 0.1, 'a=b, c': 2.0}
      >>> parse_column_or_mapping("--cost", "spend")
      'spend'
    """
    if text is None or "=" not in text:
        return text
    mapping: dict[str, float] = {}
    for entry in _entries(text):
        label, equals, number = entry.rpartition("=")
        label = _unquoted(label)
        if not equals or not label:
            raise ValueError(
                f"{option} {text!r}: entry {entry.strip()!r} is not TREATMENT=NUMBER; expected "
                "TREATMENT=NUMBER,TREATMENT=NUMBER,… or the name of a column."
            )
        if label in mapping:
            raise ValueError(f"{option} {text!r} names treatment {label!r} twice; expected once.")
        mapping[label] = _number(number, f"{option} {text!r}, treatment {label!r}")
    return mapping


_ENTRY = re.compile(r'\s*(?:"(?:[^"]|"")*"[^,]*|[^,]*)')


def _entries(text: str) -> list[str]:
    """Splits at commas, but not at those in double quotes that begin an entry.

    >>> _entries('a, "b,c"=1,5"')
    ['a', ' "b,c"=1', '5"']
    """
    found, place = [], 0
    while place <= len(text):
        match = _ENTRY.match(text, place)
        end = len(text) if match is None else match.end()
        found.append(text[place:end])
        place = end + 1
    return found


def _unquoted(entry: str) -> str:
    """An entry without the blanks around it, or without the double quotes that keep them."""
    entry = entry.strip()
    if len(entry) >= 2 and entry[0] == entry[-1] == '"':
        return entry[1:-1].replace('""', '"')
    return entry


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{where}: {text.strip()!r} is not a number.") from None

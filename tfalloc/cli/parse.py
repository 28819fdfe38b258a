"""Values of options: budgets, lists, numbers, and column-or-mapping."""

from __future__ import annotations

import math

Budget = float | tuple[float, float]


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


def budget_points(budget: Budget) -> list[float]:
    """Budgets at which results are reported: the one, or both ends and the middle of a range.

    The middle comes first: plots show it.
    """
    if isinstance(budget, tuple):
        low, high = budget
        return list(dict.fromkeys([(low + high) / 2, low, high]))
    return [budget]


def parse_list(text: str | None) -> list[str] | None:
    """Reads "a,b,c"; None stays None.

    Raises:
      ValueError: an empty entry.

    Example:
      >>> parse_list("recency, history")
      ['recency', 'history']
    """
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
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
      >>> parse_column_or_mapping("--cost", "spend")
      'spend'
    """
    if text is None or "=" not in text:
        return text
    mapping: dict[str, float] = {}
    for entry in text.split(","):
        label, equals, number = entry.rpartition("=")
        label = label.strip()
        if not equals or not label:
            raise ValueError(
                f"{option} {text!r}: entry {entry.strip()!r} is not TREATMENT=NUMBER; expected "
                "TREATMENT=NUMBER,TREATMENT=NUMBER,… or the name of a column."
            )
        if label in mapping:
            raise ValueError(f"{option} {text!r} names treatment {label!r} twice; expected once.")
        mapping[label] = _number(number, f"{option} {text!r}, treatment {label!r}")
    return mapping


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{where}: {text.strip()!r} is not a number.") from None

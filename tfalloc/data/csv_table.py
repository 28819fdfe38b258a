"""CSV as a table of typed columns: text stays text, every field is counted, nothing is guessed.

Fields are read as text and become numbers only where all of a column are numbers (or where a
schema says so). Only the empty field is missing, or what the user names; identifiers such as "007"
stay as they are; a row with a field too many or too few is an error and not a shift.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import os
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from tfalloc.data.columns import NUMERIC, STRING, require_unique, shorten

IDS = "\0ids"
"""Column of a chunk that holds identifiers as they are in the file; no header has this name."""

CHUNK_BYTES = 2**24
MISSING_WORDS = {
    "na",
    "n/a",
    "#n/a",
    "<na>",
    "nan",
    "null",
    "none",
    "nil",
    "missing",
    "-",
    "?",
    ".",
}
"""What other programs write for a missing number."""

INTEGER, FLOAT, BOOLEAN, TEXT = "integer", "float", "boolean", "text"


class CsvTable:
    """A CSV file, also .gz, .bz2, .xz or .zip, with a header line.

    Args:
      path: the file.
      na: fields that mean a missing value, beside the empty one.

    Raises:
      FileNotFoundError: no such file.
      ValueError: an empty or damaged file, or a column name that occurs twice.
    """

    num_groups = 1

    def __init__(self, path: str | os.PathLike[str], na: Sequence[str] = ()):
        self.path = os.fspath(path)
        if isinstance(na, str):
            raise ValueError(f"na={na!r} is one string; expected a list of fields, such as ['NA'].")
        self._missing = pa.array(["", *na], pa.string())
        self._types: dict[str, str] = {}
        if not os.path.isfile(self.path):
            raise FileNotFoundError(f"no CSV file at {self.path}; expected the path of a file.")
        with self._readable(), self._opened() as file:
            lines = csv.reader(io.TextIOWrapper(file, "utf-8-sig", newline=""))
            header = next((line for line in lines if line), None)
            self._header_lines = lines.line_num
        if header is None:
            raise ValueError(f"{self.path} is empty; expected a header line and rows.")
        self.columns = [name or f"Unnamed: {i}" for i, name in enumerate(header)]
        require_unique(self.columns)

    def head(self, columns: Sequence[str]) -> pd.DataFrame:
        """A made-up row that shows the type of some columns."""
        types = {INTEGER: "int64", FLOAT: "float64", BOOLEAN: "boolean", TEXT: "object"}
        return pd.DataFrame(
            {
                name: pd.Series(["a" if type_ == TEXT else 0], dtype=types[type_])
                for name, type_ in self.types(columns).items()
            }
        )

    def chunks(
        self,
        columns: Sequence[str],
        kinds: Mapping[str, str] | None = None,
        ids: str | None = None,
    ) -> Iterator[pd.DataFrame]:
        """Yields all rows in order, only `columns`.

        Args:
          columns: names.
          kinds: "numeric" or "string" for some; of the others the file decides.
          ids: column to yield once more, as `IDS`, to the byte as it is in the file.

        Raises:
          ValueError: a damaged file, or text where numbers are due.
        """
        wanted = self.types([name for name in columns if name not in (kinds or {})])
        told = {name: {NUMERIC: FLOAT, STRING: TEXT}[kind] for name, kind in (kinds or {}).items()}
        wanted = {name: told.get(name) or wanted[name] for name in columns}
        first_row = 0
        for batch in self._batches([*wanted, *([ids] if ids and ids not in wanted else [])]):
            found: dict[str, Any] = {}
            for name, type_ in wanted.items():
                column = self._without_missing(batch.column(name))
                if type_ == TEXT:
                    found[name] = column.to_pandas().astype(object)
                else:
                    found[name] = self._numbers(name, column, type_, first_row)
            if ids is not None:
                found[IDS] = batch.column(ids).to_pandas().astype(object)
            yield pd.DataFrame(found)
            first_row += batch.num_rows

    def group_chunks(self, group: int, columns: list[str]) -> Iterator[tuple[int, pd.DataFrame]]:
        """Yields (row number of the first row, rows)."""
        row = 0
        for frame in self.chunks(columns):
            yield row, frame
            row += len(frame)

    def types(self, columns: Sequence[str]) -> dict[str, str]:
        """Column -> "integer", "float", "boolean" or "text", by all of its fields.

        Raises:
          ValueError: a damaged file, or a column of numbers and of fields such as "NA".
        """
        guesses = {name: _Guess(name) for name in columns if name not in self._types}
        for batch in self._batches(list(guesses)) if guesses else ():
            for name, guess in guesses.items():
                if guess.open:
                    guess.look_at(self._without_missing(batch.column(name)))
        self._types.update({name: guess.type(self.path) for name, guess in guesses.items()})
        return {name: self._types[name] for name in columns}

    def _without_missing(self, column: Any) -> Any:
        absent = pc.is_in(column, value_set=self._missing)
        return pc.if_else(absent, pa.scalar(None, pa.string()), column)

    def _numbers(self, name: str, column: Any, type_: str, first_row: int) -> pd.Series:
        values, is_number = parse_numbers(column)
        if not is_number.all():
            row = int(np.argmin(is_number))
            raise ValueError(
                f"{self.path}: column {name!r} holds {column[row].as_py()!r} in row "
                f"{first_row + row + 1:,}; expected a number, or an empty field where it is "
                "missing: mend it, or name what means missing by na=[…] (`--na`)."
            )
        if type_ == FLOAT or np.isnan(values).any():
            return pd.Series(values)
        if type_ == BOOLEAN:
            return pd.Series(values.astype(bool))
        return pd.Series(pc.cast(column, pa.int64()).to_numpy(zero_copy_only=False))

    def _batches(self, columns: list[str]) -> Iterator[Any]:
        """Record batches of text."""
        bad: list[Any] = []

        def refuse(row: Any) -> str:
            bad.append(row)
            return "error"

        with self._readable(bad), _undecodable_rows(), self._opened() as file:
            reader = pacsv.open_csv(
                pa.PythonFile(file, mode="r"),
                pacsv.ReadOptions(
                    column_names=self.columns,
                    skip_rows=self._header_lines,
                    block_size=CHUNK_BYTES,
                ),
                pacsv.ParseOptions(newlines_in_values=True, invalid_row_handler=refuse),
                pacsv.ConvertOptions(
                    column_types=dict.fromkeys(self.columns, pa.string()),
                    include_columns=columns,
                    strings_can_be_null=False,
                ),
            )
            with closing(reader):
                for batch in reader:
                    if batch.num_rows:
                        yield batch

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        lower = self.path.lower()
        if lower.endswith(".zip"):
            with zipfile.ZipFile(self.path) as archive:
                names = [name for name in archive.namelist() if not name.endswith("/")]
                if len(names) != 1:
                    raise zipfile.BadZipFile(f"{len(names)} files inside, expected one")
                with archive.open(names[0]) as file:
                    yield file
            return
        openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
        with openers.get(os.path.splitext(lower)[1], open)(self.path, "rb") as file:
            yield file

    @contextmanager
    def _readable(self, bad: Sequence[Any] = ()) -> Iterator[None]:
        try:
            yield
        except (
            pa.ArrowException,
            OSError,
            EOFError,
            UnicodeDecodeError,
            csv.Error,
            zlib.error,
            lzma.LZMAError,
            zipfile.BadZipFile,
            RuntimeError,  # an encrypted archive
        ) as error:
            if bad:
                number = "" if bad[0].number is None else f" {bad[0].number}"
                raise ValueError(
                    f"{self.path}: row{number} has {bad[0].actual_columns} fields, the header "
                    f"{bad[0].expected_columns}; expected as many ({bad[0].text[:80]!r}): put "
                    "fields with commas in quotes, or mend the row."
                ) from error
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            if "Empty CSV" in reason:
                return
            raise ValueError(
                f"cannot read {self.path} as CSV ({reason}); expected comma-separated UTF-8 text: "
                "the file is probably corrupt or truncated."
            ) from error


class _Guess:
    """What the fields of a column, seen so far, may be."""

    def __init__(self, name: str):
        self.name = name
        self.open = True  # whether it may still be other than text
        self.integer = self.boolean = True
        self.numbers = 0
        self.words: set[str] = set()  # fields that only look like missing numbers

    def look_at(self, column: Any) -> None:
        """Takes in some fields, missing ones being null."""
        present = column.drop_null()
        if len(present) == 0:
            return
        if self.integer or self.numbers == 0:
            try:
                pc.cast(present, pa.int64())
            except pa.ArrowInvalid:
                self.integer = False
            else:
                # A number is not written 007, nor 0x1F: that is a name.
                zeros = pc.match_substring_regex(present, "^[+-]?0[0-9xX]")
                self.open = not pc.any(zeros).as_py()
                self.boolean = False
                self.numbers += len(present)
                return
        distinct = pc.unique(present)
        truth = pc.is_in(pc.utf8_lower(distinct), value_set=_TRUTH).to_numpy(zero_copy_only=False)
        number = parse_numbers(distinct)[1] & ~truth
        words = distinct.filter(pa.array(~(number | truth))).to_pylist()
        self.words.update(words)
        self.numbers += int(number.sum())
        self.boolean = self.boolean and bool(truth.all())
        if any(word.strip().lower() not in MISSING_WORDS for word in words):
            self.open = False
        if truth.any() and not self.boolean:
            self.open = False

    def type(self, path: str) -> str:
        """The verdict.

        Raises:
          ValueError: numbers, but for fields such as "NA".
        """
        if not self.open:
            return TEXT
        if self.words and self.numbers:
            raise ValueError(
                f"{path}: column {self.name!r} holds numbers and {shorten(sorted(self.words))}; "
                "only an empty field is missing: name what else is by "
                f"na={sorted(self.words)} (`--na`)."
            )
        if self.words:
            return TEXT
        if self.numbers == 0:
            return BOOLEAN if self.boolean and not self.integer else FLOAT
        return INTEGER if self.integer else FLOAT


_TRUTH = pa.array(["true", "false"])


def parse_numbers(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns text as numbers.

    Args:
      column: Arrow text [n]; null is missing. True and false are 1 and 0.

    Returns:
      (float64 [n], NaN where missing or no number; bool [n], whether it is missing or a number)
    """
    try:
        values = pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        return _slowly(column)
    values = values.astype(np.float64)
    if int(np.isnan(values).sum()) > column.null_count:  # Arrow takes "nan" for a number
        return _slowly(column)
    return values, np.ones(len(column), bool)


def _slowly(column: Any) -> tuple[np.ndarray, np.ndarray]:
    coded = pc.dictionary_encode(column)
    distinct = pd.Series(coded.dictionary.to_pylist(), dtype=object)
    truth = distinct.map(lambda text: {"true": "1", "false": "0"}.get(text.lower(), text))
    values = pd.to_numeric(truth, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    known = ~np.isnan(values)
    index = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    absent = index < 0
    if len(distinct) == 0:
        return np.full(len(index), np.nan), absent
    return np.where(absent, np.nan, values[index]), absent | known[index]


@contextmanager
def _undecodable_rows() -> Iterator[None]:
    """Keeps quiet about bad rows that pyarrow cannot show its handler: they are no UTF-8 text.

    The reader refuses such a row all the same; only Python's note on the handler is not wanted.
    """
    told = sys.unraisablehook

    def tell(event: Any) -> None:
        if not isinstance(event.exc_value, UnicodeDecodeError):
            told(event)

    sys.unraisablehook = tell
    try:
        yield
    finally:
        sys.unraisablehook = told

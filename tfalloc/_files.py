"""Files: written whole or not at all, directories that appear at once, locks, plain JSON, versions.

A file or directory is assembled in a hidden room beside its final name (the same file system, so
that the last step is a rename) and moved into place when everything has succeeded. The room of a
process that was killed is removed by the next one that writes to the same name.

Directories carry a marker file, so that overwriting deletes only what this package has written.
"""

from __future__ import annotations

import errno
import glob
import json
import math
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from tfalloc._version import __version__

try:
    import fcntl
except ImportError:  # no POSIX: nobody watches over two processes with one output
    fcntl = None  # type: ignore[assignment]

PathLike = str | os.PathLike[str]
Record = TypeVar("Record")

CSV_SUFFIXES = (".csv", ".csv.gz", ".csv.bz2", ".csv.xz", ".csv.zip")

MARKER = ".tfalloc"
_MARKED = "tfalloc wrote this directory: when asked to overwrite, it may delete all of it.\n"
_ROOM = ".tfalloc-new"
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def write_file(path: PathLike, content: str | bytes) -> None:
    """Writes a file that is there as a whole or not at all, also after a loss of power.

    Args:
      path: the file, replaced if it exists; missing directories are created.
      content: its bytes, or text to be written as UTF-8.

    Raises:
      ValueError: the place is not writable.
      OSError: writing failed, such as for lack of space; the message names the file.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp()) / "new" / "note.txt"
      >>> write_file(path, "hello")
      >>> path.read_text(), len(list(path.parent.iterdir()))
      ('hello', 1)
    """
    path = Path(path)
    require_local(path)
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(temporary, _NEW_FILE, 0o666)
    except OSError as error:
        if error.errno in _FULL:
            raise _named(error, temporary, path) from None
        raise ValueError(
            f"cannot write {path} ({error.strerror}); expected a writable place."
        ) from error
    try:
        with open(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _named(error, temporary, path) from None
        raise
    _sync(path.parent)


@contextmanager
def new_file(target: PathLike, *, overwrite: bool = False) -> Iterator[Path]:
    """Yields a temporary file name that becomes `target` if the block succeeds.

    Args:
      target: the file to leave; its name is that of the temporary one.
      overwrite: whether an existing file is replaced.

    Raises:
      ValueError: it exists and may not be replaced, or cannot be written.
    """
    target = Path(os.path.abspath(target))
    check_free(target, overwrite=overwrite, directory=False)
    with _room(target) as room:
        yield room / target.name
        check_free(target, overwrite=overwrite, directory=False)
        _sync(room / target.name)
        os.replace(room / target.name, target)
    _sync(target.parent)


@contextmanager
def new_directory(target: PathLike, *, overwrite: bool = False) -> Iterator[Path]:
    """Yields a temporary directory that becomes `target`, with our marker, if the block succeeds.

    An earlier directory is set aside first and put back if the rename fails; for that instant there
    is none.

    Args:
      target: the directory to leave.
      overwrite: whether an existing one is replaced, if it is empty or carries our marker.

    Raises:
      ValueError: it exists and may not be replaced, or cannot be written.

    Example:
      >>> import tempfile
      >>> target = Path(tempfile.mkdtemp()) / "run"
      >>> with new_directory(target) as folder:
      ...     write_file(folder / "model", b"weights")
      ...     target.exists()
      False
      >>> sorted(path.name for path in target.iterdir())
      ['.tfalloc', 'model']
    """
    target = Path(os.path.abspath(target))
    check_free(target, overwrite=overwrite)
    with _room(target) as room:
        # Inside the room, so that what is set aside has a place too.
        fresh = room / "new"
        fresh.mkdir()
        yield fresh
        put_in_place(fresh, target, overwrite=overwrite, aside=room / "old")


def put_in_place(fresh: Path, target: Path, *, overwrite: bool, aside: Path) -> None:
    """Moves a finished directory to its name, with our marker.

    Args:
      fresh: the directory, on the file system of `target`.
      target: where it goes.
      overwrite: as in `new_directory`.
      aside: a free name for what it replaces, which the caller removes.

    Raises:
      ValueError: `target` exists and may not be replaced.
    """
    check_free(target, overwrite=overwrite)
    mark(fresh)
    for path in fresh.rglob("*"):
        _sync(path)
    if not os.path.lexists(target):
        os.rename(fresh, target)
    else:
        os.rename(target, aside)
        try:
            os.rename(fresh, target)
        except BaseException:
            os.rename(aside, target)
            raise
    _sync(target.parent)


def check_free(target: PathLike, *, overwrite: bool, directory: bool = True) -> None:
    """Refuses an output that exists and may not be replaced, before any work is done.

    Args:
      target: the file or directory to be written.
      overwrite: whether an earlier output is replaced.
      directory: whether it is to be a directory.

    Raises:
      ValueError: with what to do instead.
    """
    path = Path(target)
    require_local(path)
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise ValueError(
            f"output {path} exists; pass overwrite=True (--overwrite) to replace it, or another "
            "name."
        )
    if path.is_dir() != directory:
        kind, wanted = ("directory", "file") if path.is_dir() else ("file", "directory")
        raise ValueError(f"output {path} is a {kind}, expected a {wanted}: give another name.")
    if directory and (path.is_symlink() or (any(path.iterdir()) and not is_marked(path))):
        raise ValueError(
            f"output {path} is a directory that tfalloc did not write (it has no {MARKER} file); "
            "overwriting would delete it: give another name, or delete it yourself."
        )


def require_local(path: PathLike) -> None:
    """Refuses an output such as gs://bucket/run, which would become a directory "gs:" here.

    Raises:
      ValueError: the path begins with a scheme.

    Example:
      >>> require_local(Path("gs://bucket/run"))
      Traceback (most recent call last):
        ...
      ValueError: output 'gs:/bucket/run' is remote; expected a local name: write here and copy.
    """
    # `Path` makes gs:/bucket/run of it. C:/run is no scheme.
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", os.fspath(path)):
        raise ValueError(
            f"output {os.fspath(path)!r} is remote; expected a local name: write here and copy."
        )


def mark(folder: Path) -> None:
    """Marks a directory as written by this package."""
    (folder / MARKER).write_text(_MARKED, "utf-8")


def is_marked(folder: Path) -> bool:
    """Whether this package has written a directory, by its marker."""
    marker = folder / MARKER
    try:
        return not marker.is_symlink() and marker.read_text("utf-8") == _MARKED
    except (OSError, ValueError):
        return False


@contextmanager
def alone_in(folder: PathLike, *, wait: bool = True) -> Iterator[None]:
    """Keeps other processes of this machine that call it out of a directory; leaves no file there.

    The directory itself is locked, where the file system can, so that there is no lock file that
    could be a link to something else. The system frees the lock of a process that dies.

    Args:
      folder: made if it does not exist.
      wait: whether to wait for another process; else it is an error.

    Raises:
      ValueError: another process is there, and `wait` is False.
    """
    with suppress(OSError):
        os.makedirs(folder, exist_ok=True)
    handle = None
    try:
        if fcntl is not None:
            try:
                handle = os.open(folder, os.O_RDONLY)
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise ValueError(
                    f"another process is writing to {folder}: wait for it, or give another output."
                ) from error
            except OSError:  # some network file systems lock no directories
                pass
        yield
    finally:
        if handle is not None:
            os.close(handle)


def require_writable(path: PathLike) -> None:
    """Asks before hours of work whether a file could be written, without writing anything.

    Args:
      path: the file; its directory may be missing.

    Raises:
      ValueError: the place is not writable.
    """
    require_local(path)
    place = Path(path).absolute().parent
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        reason = "is no directory" if not place.is_dir() else "is not writable"
        raise ValueError(f"cannot write {path} ({place} {reason}); expected a writable place.")


def plain(value: Any) -> Any:
    """A value in JSON's types: arrays become lists, and what is not finite becomes null.

    >>> import numpy as np
    >>> plain({"a": np.float32(0.5), "b": (np.arange(2), float("nan")), 3: Path("x")})
    {'a': 0.5, 'b': [[0, 1], None], '3': 'x'}
    """
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: PathLike, content: Any, indent: int = 2) -> None:
    """Writes JSON, whole or not at all; `plain` says what becomes of NumPy's types and of NaN."""
    write_file(path, json.dumps(plain(content), indent=indent, ensure_ascii=False) + "\n")


def is_csv(path: PathLike) -> bool:
    """Whether a path is CSV (True) or Parquet (False), by its suffix.

    Directories and patterns are Parquet.

    Raises:
      FileNotFoundError, ValueError: nothing there, or another suffix.

    Example:
      >>> is_csv("users.csv.gz"), is_csv("users-*.parquet")
      (True, False)
    """
    text = os.fspath(path)
    lower = text.lower()
    if lower.endswith(CSV_SUFFIXES):
        return True
    if lower.endswith((".parquet", ".pq")) or os.path.isdir(text) or glob.has_magic(text):
        return False
    if not os.path.exists(text):
        raise FileNotFoundError(f"no data at {text}; expected a CSV or Parquet file.")
    raise ValueError(
        f"{text} ends neither in .csv (.gz, .bz2, .xz, .zip) nor in .parquet; expected CSV, or "
        "Parquet as a file, directory or pattern."
    )


def parse_json(text: bytes, kind: type[Record]) -> Record:
    """JSON as a dataclass, checked: every entry there, of its type, and fit for the class.

    Raises:
      ValueError: with the first thing that is wrong, in one line: where, and what.

    Example:
      >>> from dataclasses import dataclass
      >>> @dataclass
      ... class Point:
      ...     x: float
      >>> parse_json(b'{"x": 0.5}', Point)
      Point(x=0.5)
      >>> parse_json(b'{"x": "far"}', Point)
      Traceback (most recent call last):
      ValueError: x: Input should be a valid number
    """
    import pydantic

    try:
        return pydantic.TypeAdapter(kind).validate_json(text, strict=True)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{place}: {message}" if place else message) from error


def versions() -> dict[str, str]:
    """Versions of the package and of what its numbers depend on."""
    import keras
    import numpy as np
    import tensorflow as tf

    return {
        "tfalloc": __version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


@contextmanager
def _room(target: Path) -> Iterator[Path]:
    """A hidden directory beside `target`, locked while it is in use and gone afterwards."""
    with made_parents(target):
        _remove_abandoned(target)
        room = target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}{_ROOM}")
        room.mkdir()
        try:
            with alone_in(room):
                mark(room)  # after locking: a marked room without a lock is abandoned
                with naming(room, target):
                    yield room
        finally:
            shutil.rmtree(room, ignore_errors=True)


def _remove_abandoned(target: Path) -> None:
    """Removes rooms for `target` whose process was killed."""
    if fcntl is None:
        return
    for room in list(target.parent.iterdir()):
        ours = room.name.startswith(f".{target.name[:40]}.") and room.name.endswith(_ROOM)
        if not ours or room.is_symlink() or not is_marked(room):
            continue
        with suppress(ValueError), alone_in(room, wait=False):
            shutil.rmtree(room, ignore_errors=True)


@contextmanager
def made_parents(target: Path) -> Iterator[None]:
    """Creates missing parent directories, and removes them again on failure."""
    missing = [path for path in (target.parent, *target.parent.parents) if not path.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(target.parent, os.W_OK):
            raise PermissionError(errno.EACCES, "Permission denied")
    except OSError as error:
        raise ValueError(
            f"cannot write output {target} ({error.strerror}); expected a writable place."
        ) from error
    with ExitStack() as undo:
        for path in reversed(missing):  # innermost is undone first
            undo.callback(_remove_empty, path)
        yield
        undo.pop_all()


def _remove_empty(path: Path) -> None:
    with suppress(OSError):  # somebody else has put something there
        path.rmdir()


@contextmanager
def naming(temporary: Path, target: Path) -> Iterator[None]:
    """Makes errors of the file system name what the user knows, not a temporary name or nothing."""
    try:
        yield
    except OSError as error:
        named = _named(error, temporary, target)
        if named is error:  # not from itself: whoever follows causes would go round in circles
            raise
        raise named from error


def _named(error: OSError, temporary: Path, target: Path) -> OSError:
    """The error with the name that the user knows, where it has a temporary one or none."""
    if error.errno is None and "No space left" in str(error):  # HDF5 keeps the number in its text
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
    if error.errno is None:
        return error
    named = None if error.filename is None else str(error.filename)
    if named is None and error.errno not in _FULL:
        return error
    if named is None or named.startswith(str(temporary)):
        return OSError(error.errno, error.strerror, str(target))
    return error


def _sync(path: Path) -> None:
    """Forces a file or directory to disk, where the system can."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

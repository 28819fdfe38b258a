"""Text files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # no POSIX: nobody watches over two processes with one output
    fcntl = None  # type: ignore[assignment]


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8 text beside the target and renames it: a killed process leaves the old file.

    Args:
      path: the file; missing directories are created.
      text: its contents.

    Raises:
      ValueError: the place is not writable.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise ValueError(
            f"cannot write {path} ({error.strerror}); expected a writable place."
        ) from error
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp's 0600 is for secrets
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Waits for other processes of this machine that are in the same directory, and leaves no file.

    Args:
      folder: locked itself, where the file system can; the system frees it if the process dies.
    """
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    handle = None
    try:
        if fcntl is not None:
            with suppress(OSError):  # some network file systems lock no directories
                handle = os.open(folder, os.O_RDONLY)
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def require_writable(path: str | os.PathLike[str]) -> None:
    """Asks before hours of work whether a file could be written, without writing anything.

    Args:
      path: the file; its directory may be missing.

    Raises:
      ValueError: the place is not writable.
    """
    place = Path(path).absolute().parent
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        reason = "is no directory" if not place.is_dir() else "is not writable"
        raise ValueError(f"cannot write {path} ({place} {reason}); expected a writable place.")

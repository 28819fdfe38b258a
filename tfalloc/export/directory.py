"""A directory that appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


def check_target(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """Refuses a target that must not be written to, before any work is done.

    Args:
      path: directory to be written.
      overwrite: whether an existing SavedModel may be replaced.

    Raises:
      ValueError: if the path is remote, exists, or (with overwrite) is not a SavedModel.
    """
    text = os.fspath(path)
    if "://" in text:
        raise ValueError(
            f"path={text!r} is remote; expected a local directory: export there, then copy it."
        )
    target = Path(text).absolute()
    if not os.path.lexists(target):
        return target
    if not overwrite:
        raise ValueError(
            f"path={text!r} exists; expected a new directory: choose another, or pass "
            "overwrite=True."
        )
    replaceable = target.is_dir() and not target.is_symlink()
    if not replaceable or not ((target / "saved_model.pb").exists() or not any(target.iterdir())):
        raise ValueError(
            f"path={text!r} exists and is not a SavedModel; expected a SavedModel to overwrite, or "
            "a new directory: choose another path."
        )
    return target


@contextlib.contextmanager
def appearing(target: Path, overwrite: bool) -> Iterator[Path]:
    """Gives a temporary directory to fill; renames it to `target` if the block succeeds.

    Both are on one file system, so that the rename is atomic. A directory that is overwritten is
    set aside first, and put back if the rename fails; for that instant there is none.

    Args:
      target: directory to be written.
      overwrite: whether it may exist.
    """
    created = _make_parents(target.parent)
    room = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        # Inside, because mkdtemp's own directory is closed to other users.
        fresh, old = room / "new", room / "old"
        fresh.mkdir()
        yield fresh
        check_target(target, overwrite)
        if not target.exists():
            os.replace(fresh, target)
        else:
            os.replace(target, old)
            try:
                os.replace(fresh, target)
            except BaseException:
                os.replace(old, target)
                raise
    except BaseException:
        shutil.rmtree(room, ignore_errors=True)
        for parent in created:
            with contextlib.suppress(OSError):  # somebody else has put something there
                parent.rmdir()
        raise
    shutil.rmtree(room, ignore_errors=True)


def _make_parents(parent: Path) -> list[Path]:
    """Makes missing parents; returns them, innermost first."""
    missing = []
    while not parent.exists():
        missing.append(parent)
        parent = parent.parent
    for directory in reversed(missing):
        directory.mkdir(exist_ok=True)
    return missing

"""Outputs that appear whole or not at all.

A file or directory is assembled under a temporary name beside its final one (the same file
system, so that the last step is a rename) and moved into place when everything has succeeded.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tfalloc.cli import console

try:
    import fcntl
except ImportError:  # no POSIX: nobody watches over two processes with one output
    fcntl = None  # type: ignore[assignment]

# What tells a directory of ours from one that must not be replaced.
OURS = ("config.json", "saved_model.pb")


@contextmanager
def staged_directory(target: str | os.PathLike[str], *, overwrite: bool) -> Iterator[Path]:
    """Yields a temporary directory that becomes `target` if the block succeeds.

    Args:
      target: the directory to leave.
      overwrite: whether an existing one is replaced, if it is empty or an earlier output.

    Raises:
      ValueError: it exists and may not be replaced, or cannot be written.
    """
    target = Path(os.path.abspath(target))
    check_free(target, overwrite=overwrite)
    with _parents(target):
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            os.chmod(staging, 0o777 & ~_umask())  # mkdtemp's 0700 is for secrets
            yield staging
            check_free(target, overwrite=overwrite)
            _swap(staging, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def resumable_directory(
    target: str | os.PathLike[str], *, overwrite: bool, restart: bool
) -> Iterator[tuple[Path, Path]]:
    """As `staged_directory`, with a second directory that outlives the death of the process.

    Both lie in `target.partial`, a name that the same command finds again. It is gone after
    success, and after a failure before anything was kept.

    Args:
      target: the directory to leave.
      overwrite: whether an existing one is replaced, if it is empty or an earlier output.
      restart: whether to throw away what an earlier process kept.

    Yields:
      (empty directory that becomes `target`, directory of what is kept until then).

    Raises:
      ValueError: as `staged_directory`, or another process is at work on the same target.
    """
    target = Path(os.path.abspath(target))
    check_free(target, overwrite=overwrite)
    work = target.with_name(f"{target.name}.partial")
    with _parents(target), _only_process(work):
        staging, kept = work / "output", work / "kept"
        shutil.rmtree(staging, ignore_errors=True)
        if restart:
            shutil.rmtree(kept, ignore_errors=True)
        staging.mkdir()
        kept.mkdir(exist_ok=True)
        try:
            yield staging, kept
            check_free(target, overwrite=overwrite)
            _swap(staging, target)
            shutil.rmtree(kept, ignore_errors=True)
        except BaseException:
            if any(kept.rglob("*.npz")):
                console.note(f"what was trained is in {work}: the same command goes on from there")
            else:
                shutil.rmtree(kept, ignore_errors=True)
            raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _only_process(work: Path) -> Iterator[None]:
    """Creates `work`, alone in it; the system drops the lock of a process that is killed."""
    work.mkdir(exist_ok=True)
    lock = work / "lock"
    with open(lock, "w") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ValueError(
                    f"another process is writing to {work}: wait for it, or give another --output."
                ) from error
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
            if not any(work.iterdir()):
                work.rmdir()


@contextmanager
def staged_file(target: str | os.PathLike[str], *, overwrite: bool) -> Iterator[Path]:
    """Yields a temporary file name that becomes `target` if the block succeeds.

    Args:
      target: the file to leave; its suffix is that of the temporary name.
      overwrite: whether an existing file is replaced.

    Raises:
      ValueError: it exists and may not be replaced, or cannot be written.
    """
    target = Path(os.path.abspath(target))
    check_free(target, overwrite=overwrite, directory=False)
    with _parents(target):
        # A directory, because writers may leave more than the one file behind when they fail.
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            yield staging / target.name
            check_free(target, overwrite=overwrite, directory=False)
            os.replace(staging / target.name, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def check_free(target: str | os.PathLike[str], *, overwrite: bool, directory: bool = True) -> None:
    """Refuses a target that exists and may not be replaced.

    Raises:
      ValueError: with what to do instead.
    """
    path = Path(target)
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise ValueError(f"output {path} exists; pass --overwrite to replace it, or another name.")
    if path.is_dir() != directory:
        kind, wanted = ("directory", "file") if path.is_dir() else ("file", "directory")
        raise ValueError(f"output {path} is a {kind}, expected a {wanted}: give another name.")
    if directory and any(path.iterdir()) and not any((path / name).is_file() for name in OURS):
        raise ValueError(
            f"output {path} is a directory that tfalloc did not write; --overwrite would delete "
            "it: give another name."
        )


def _swap(staging: Path, target: Path) -> None:
    """Moves `staging` to `target`; an earlier output is kept until that has worked."""
    if not os.path.lexists(target):
        os.rename(staging, target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    os.rename(target, old / target.name)
    try:
        os.rename(staging, target)
    except BaseException:
        os.rename(old / target.name, target)
        os.rmdir(old)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _parents(target: Path) -> Iterator[None]:
    """Creates missing parent directories, and removes them again on failure."""
    missing = [path for path in (target.parent, *target.parent.parents) if not path.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(target.parent, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise ValueError(
            f"cannot write output {target} ({error.strerror}); expected a writable place."
        ) from error
    try:
        yield
    except BaseException:
        for path in missing:
            try:
                path.rmdir()
            except OSError:
                break
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

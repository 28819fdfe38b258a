"""A run's directory: what `train` leaves and everything else reads.

DIR/model.keras        the model
DIR/config.json        data, columns, recipe, versions: `Config`
DIR/metrics.json       outcomes on held-out rows
DIR/history.csv, outcome_curve.csv, plots/
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfalloc import _files
from tfalloc.training.columns import Columns
from tfalloc.training.recipe import Recipe

if TYPE_CHECKING:
    from tfalloc.data import RCTData

MODEL, CONFIG, METRICS = "model.keras", "config.json", "metrics.json"
HISTORY, CURVE, PLOTS = "history.csv", "outcome_curve.csv", "plots"

# Policies as metrics.json and tables name them.
THIS_MODEL, TWO_STAGE = "this model", "two-stage model"
SAME_MIX, CHEAPEST = "same mix for everyone", "cheapest for everyone"


@dataclasses.dataclass(frozen=True)
class TrialRecord:
    """What a run remembers of the trial.

    Attributes:
      path: of the file; None: the trial came from memory.
      rows: of the whole trial, held-out ones included.
      feature_kinds: feature -> "numeric" or "string".
      treatments: K labels, in order.
      fingerprint: of the rows, as its columns read them; None: an earlier version wrote the file.
    """

    path: str | None
    rows: int
    feature_kinds: dict[str, str]
    treatments: list[str]
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        if not set(self.feature_kinds.values()) <= {"numeric", "string"}:
            raise ValueError("feature_kinds: expected numeric or string for each feature")


@dataclasses.dataclass(frozen=True)
class Mix:
    """Mean outcomes of the arms in the training rows: what the same mix for everyone is made of.

    Attributes:
      response: K means.
      cost: K means, per user.
    """

    response: list[float]
    cost: list[float]

    @classmethod
    def of(cls, data: RCTData) -> Mix:
        """The mix of some rows."""
        arms = data.describe().arms
        return cls([float(arm.response) for arm in arms], [float(arm.cost) for arm in arms])


@dataclasses.dataclass(frozen=True)
class Config:
    """What config.json holds.

    Attributes:
      command: what wrote it.
      data: the trial.
      columns: what its columns are; None: the trial came from memory.
      options: the recipe.
      versions: of packages.
      mix: of the training rows; None: an earlier version wrote the file.
    """

    command: str
    data: TrialRecord
    columns: Columns | None
    options: Recipe
    versions: dict[str, str]
    mix: Mix | None = None


@dataclasses.dataclass(frozen=True)
class Run:
    """What `tfalloc train` or `tfalloc.training.train` left.

    Attributes:
      directory: where.
      config: read from its config.json.
    """

    directory: Path
    config: Config

    @classmethod
    def read(cls, directory: str | os.PathLike[str]) -> Run:
        """Opens a directory; the model is loaded when asked for.

        Raises:
          FileNotFoundError: there is none.
          ValueError: it is not a run, or its config.json is damaged.
        """
        directory = Path(directory)
        if not directory.exists():
            raise FileNotFoundError(
                f"no directory {directory}; expected what `tfalloc train` left."
            )
        for name in (CONFIG, MODEL):
            if not (directory / name).is_file():
                raise ValueError(
                    f"{directory} is not a model directory: it has no {name}; expected what "
                    "`tfalloc train --output` left."
                )
        return cls(directory, read_config(directory / CONFIG))

    def model(self) -> Any:
        """Loads the `AllocationModel`.

        Raises:
          ValueError: the file is damaged.
        """
        import keras

        import tfalloc.models  # noqa: F401  (registers AllocationModel with Keras)

        path = self.directory / MODEL
        if not zipfile.is_zipfile(path):
            raise ValueError(f"cannot read {path}: it is corrupt or truncated; train it again.")
        try:
            return keras.saving.load_model(path)
        # Keras raises whatever the damaged part happens to hit: zip, HDF5, JSON, type errors.
        except Exception as error:
            raise ValueError(
                f"cannot load {path} ({type(error).__name__}: {str(error)[:200]}); expected a "
                "model that `tfalloc train` saved: it is corrupt, or of another version."
            ) from error

    @property
    def columns(self) -> Columns:
        """What the columns of its trial are.

        Raises:
          ValueError: the trial came from memory.
        """
        if self.config.columns is None:
            raise ValueError(
                f"{self.directory} was trained on data in memory, so its columns are not known; "
                "expected columns: read the rows with `tfalloc.RCTData`."
            )
        return self.config.columns


def read_config(path: Path) -> Config:
    """Reads and checks a run's config.json.

    Raises:
      ValueError: it is damaged, or a value is absent or of the wrong type.
    """
    try:
        return _files.parse_json(path.read_bytes(), Config)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"cannot read {path} ({error}); expected the file that `tfalloc train` wrote: it is "
            "damaged or was edited."
        ) from error


@contextmanager
def resumable_directory(
    target: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    restart: bool = False,
    say: Callable[[str], None] | None = None,
) -> Iterator[tuple[Path, Path]]:
    """As `new_directory`, with a second directory that outlives the death of the process.

    Both lie in `target.partial`, a name that the same call finds again. It is gone after success,
    and after a failure before anything was kept.

    Args:
      target: the directory to leave.
      overwrite: whether an existing one is replaced, if it is empty or carries our marker.
      restart: whether to throw away what an earlier process kept.
      say: called with where the rest is, if the block fails.

    Yields:
      (empty directory that becomes `target`, directory of what is kept until then).

    Raises:
      ValueError: as `new_directory`, `target.partial` is somebody else's, or another process is at
        work on the same target.
    """
    target = Path(os.path.abspath(target))
    _files.check_free(target, overwrite=overwrite)
    work = target.with_name(f"{target.name}.partial")
    with _work_directory(target, work):
        fresh, kept = work / "output", work / "kept"
        shutil.rmtree(fresh, ignore_errors=True)
        if restart:
            shutil.rmtree(kept, ignore_errors=True)
        fresh.mkdir()
        kept.mkdir(exist_ok=True)
        try:
            with _files.naming(work, target):
                yield fresh, kept
            _files.put_in_place(fresh, target, overwrite=overwrite, aside=work / "replaced")
            shutil.rmtree(kept, ignore_errors=True)
        except BaseException:
            if any(kept.rglob("*.npz")):
                if say is not None:
                    say(f"what was trained is in {work}: the same command goes on from there")
            else:
                shutil.rmtree(kept, ignore_errors=True)
            raise
        finally:
            for left in (fresh, work / "replaced"):
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _work_directory(target: Path, work: Path) -> Iterator[None]:
    """Creates `work`, marked as ours, alone in it; removes it if nothing is left in it."""
    if os.path.lexists(work) and (
        work.is_symlink()
        or not work.is_dir()
        or (any(work.iterdir()) and not _files.is_marked(work))
    ):
        raise ValueError(
            f"{work} is in the way and tfalloc did not write it: move it, or give another output."
        )
    with _files.made_parents(target), _files.alone_in(work, wait=False):
        _files.mark(work)
        try:
            yield
        finally:
            if [path.name for path in work.iterdir()] == [_files.MARKER]:
                with suppress(OSError):
                    (work / _files.MARKER).unlink()
                    work.rmdir()

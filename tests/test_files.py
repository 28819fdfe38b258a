"""Files: whole or not at all, nobody else's is touched, and full disks are named."""

import errno
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tfalloc import _files
from tfalloc._files import MARKER, alone_in, new_directory, new_file, plain, write_file
from tfalloc.training.run import resumable_directory

pytest.importorskip("fcntl")


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    write_file(path, "one")
    with pytest.raises(ValueError, match="exists"), new_file(path):
        pass
    with suppress(KeyError), new_file(path, overwrite=True) as new:
        new.write_text("two")
        assert path.read_text() == "one"
        raise KeyError
    assert path.read_text() == "one"
    with new_file(path, overwrite=True) as new:
        new.write_text("two")
    assert path.read_text() == "two" and [p.name for p in path.parent.iterdir()] == ["a.txt"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_failure_leaves_no_parents(tmp_path):
    with pytest.raises(KeyError), new_directory(tmp_path / "a" / "b" / "c"):
        raise KeyError
    assert not any(tmp_path.iterdir())


def test_only_our_directories_are_replaced(tmp_path):
    run, kept = tmp_path / "run", tmp_path / "kept"
    with new_directory(run) as folder:
        write_file(folder / "old", "")
    with new_directory(run, overwrite=True) as folder:
        write_file(folder / "new", "")
    assert {p.name for p in run.iterdir()} == {"new", MARKER}
    kept.mkdir()
    for name in ("config.json", "saved_model.pb", "table.md"):
        write_file(kept / name, "{}")
    link = tmp_path / "link"
    link.symlink_to(run)
    own = kept / MARKER
    for prepare in (lambda: None, lambda: own.write_text("mine"), own.unlink, _link_to(run, own)):
        prepare()
        for target in (kept, link):
            with pytest.raises(ValueError, match="did not write"):
                _files.check_free(target, overwrite=True)
    assert len(list(kept.iterdir())) == 4


def _link_to(run, own):
    return lambda: own.symlink_to(run / MARKER)


def test_work_of_others_beside_a_run_is_safe(tmp_path):
    precious = tmp_path / "run.partial" / "output" / "thesis.tex"
    write_file(precious, "ten years")
    with (
        pytest.raises(ValueError, match="run.partial is in the way"),
        resumable_directory(tmp_path / "run", restart=True),
    ):
        pass
    (tmp_path / "other.partial").symlink_to(tmp_path / "run.partial")
    with pytest.raises(ValueError, match="in the way"), resumable_directory(tmp_path / "other"):
        pass
    assert precious.read_text() == "ten years"


def test_one_process_at_a_time(tmp_path):
    with (
        resumable_directory(tmp_path / "run"),
        pytest.raises(ValueError, match="another process"),
        resumable_directory(tmp_path / "run"),
    ):
        pass
    with resumable_directory(tmp_path / "run", overwrite=True) as (fresh, _):
        write_file(fresh / "a", "")
    assert {p.name for p in tmp_path.rglob("*")} == {"run", "a", MARKER}


def test_what_a_killed_process_left_is_removed(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from tfalloc import _files\n"
        "with _files.new_directory(sys.argv[1]) as folder:\n"
        "    (folder / 'large').write_bytes(b'0' * 1000)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    target, foreign = tmp_path / "run", tmp_path / ".run.1234.tfalloc-new"
    foreign.mkdir()
    (foreign / "mine").write_text("")
    subprocess.run([sys.executable, "-c", code, target], check=False)
    assert len(list(tmp_path.iterdir())) == 2 and not target.exists()
    with new_directory(target), new_directory(tmp_path / "run2"):
        rooms = {p.name for p in tmp_path.iterdir() if p != foreign}
        assert len(rooms) == 2  # and that of a process which is alive stays
        with new_directory(tmp_path / "run3"):
            pass
        assert rooms < {p.name for p in tmp_path.iterdir()}
    assert {p.name for p in tmp_path.iterdir()} == {"run", "run2", "run3", foreign.name}


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    target = tmp_path / "plan.csv"
    for filename in (None, "inside"):
        with pytest.raises(OSError, match="plan.csv") as caught, new_file(target) as room:
            raise OSError(errno.ENOSPC, "No space left on device", filename and str(room))
        assert (caught.value.filename, caught.value.errno) == (str(target), errno.ENOSPC)

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="plan.csv"):
        write_file(target, "x")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.ENOSPC, "No space left on device", "{work}/output/model.keras"),
        OSError("Can't write data (errno = 28, error message = 'No space left on device')"),
    ],
)
def test_a_full_disk_names_the_run(tmp_path, error):
    if error.filename:
        error.filename = error.filename.format(work=tmp_path / "run.partial")
    with (
        pytest.raises(OSError, match="No space left") as caught,
        resumable_directory(tmp_path / "run"),
    ):
        raise error
    assert caught.value.filename == str(tmp_path / "run")
    assert not any(tmp_path.iterdir())


def test_an_error_is_not_its_own_cause(tmp_path):
    error = OSError(errno.EIO, "Input/output error", "disk")
    for context in (resumable_directory(tmp_path / "a"), new_file(tmp_path / "b")):
        with pytest.raises(OSError, match="disk") as caught, context:
            raise error
        assert caught.value is error and error.__cause__ is None


def test_waiting_lock_and_plain_json(tmp_path):
    with alone_in(tmp_path / "a"), pytest.raises(ValueError), alone_in(tmp_path / "a", wait=False):
        pass
    with alone_in(tmp_path / "a"):
        assert not any((tmp_path / "a").iterdir())
    content = {"x": np.float64("nan"), "y": [np.int8(3), np.array([[1.5]])], "p": Path("a"), 4: ()}
    assert json.loads(json.dumps(plain(content), allow_nan=False)) == {
        "x": None, "y": [3, [[1.5]]], "p": "a", "4": [],
    }  # fmt: skip

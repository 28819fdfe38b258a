"""The store of runs: what is kept is not done again, and settings do not mix."""

import json
import threading

import numpy as np
import pytest

from tfalloc.reproduce import Runs

KEYS = [{"method": method, "seed": seed} for seed in range(2) for method in "ab"]


class Work:
    """Counts its calls; fails at one of them."""

    def __init__(self, fails_at=None):
        self.calls, self.fails_at = [], fails_at

    def __call__(self, method, seed):
        if len(self.calls) == self.fails_at:
            raise KeyboardInterrupt
        self.calls.append((method, seed))
        return {"x": np.float32(seed), "trace": np.arange(3), "bad": float("nan")}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "runs.json"


def test_an_interrupted_study_goes_on_where_it_was(path):
    first = Work(fails_at=3)
    with pytest.raises(KeyboardInterrupt):
        Runs(path, {"rows": 10}).complete(KEYS, first, "study")
    second, third = Work(), Work()
    Runs(path, {"rows": 10}).complete(KEYS, second, "study")
    assert first.calls + second.calls == [(key["method"], key["seed"]) for key in KEYS]
    runs = Runs(path, {"rows": 10})
    runs.complete(KEYS, third, "study")
    assert third.calls == [] and len(runs) == 4
    assert not list(path.parent.glob(".*")), "a temporary file was left"


def test_frame_has_keys_figures_and_seconds(path):
    runs = Runs(path, {})
    runs.complete(KEYS, Work(), "study")
    for store in (runs, Runs(path, {})):
        frame = store.frame(method="b")
        assert frame.method.tolist() == ["b", "b"] and frame.x.tolist() == [0.0, 1.0]
        assert frame.trace.tolist() == [[0, 1, 2]] * 2
        assert frame.bad.isna().all() and (frame.seconds >= 0).all()
        assert store.figures({"seed": 1, "method": "b"})["x"] == 1.0
        assert {"seed": 1.0, "method": "b"} in store
        assert {"seed": 1, "method": "b"} in store and {"seed": 2, "method": "b"} not in store


def test_work_may_say_how_long_it_took(path):
    runs = Runs(path, {})
    runs.complete([{"seed": n} for n in (0, 1)], lambda seed: {"seconds": 12.5 + seed}, "study")
    assert runs.frame().seconds.tolist() == [12.5, 13.5] and runs.seconds == 26.0
    assert runs.figures({"seed": 0}) == {}


def test_what_all_runs_stand_on_is_prepared_once_and_may_end_the_study(path):
    def refuse(method, seed):
        raise ValueError("the rows are too few.")

    with pytest.raises(ValueError, match="too few"):
        Runs(path, {}).complete(KEYS, Work(), "study", prepare=refuse)
    assert not path.exists() and not path.parent.exists()
    Runs(path, {}).complete(KEYS[:1], Work(), "study")
    prepared = []
    runs = Runs(path, {})
    runs.complete(KEYS, Work(), "study", prepare=lambda **key: prepared.append(key))
    assert prepared == [KEYS[1]] and len(runs) == len(KEYS)
    runs.complete(KEYS, Work(), "study", prepare=refuse)  # nothing is missing, nothing prepared


def test_other_settings_are_refused_in_one_line_unless_restarted(path):
    Runs(path, {"rows": 10, "heads": "marginal"}).complete(KEYS, Work(), "study")
    with pytest.raises(ValueError, match=r"4 runs with rows=10, now rows=20; .*--restart") as error:
        Runs(path, {"rows": 20, "heads": "marginal"})
    assert "heads" not in str(error.value) and "\n" not in str(error.value)
    assert len(Runs(path, {"rows": 20}, restart=True)) == 0
    assert len(Runs(path, {"rows": 10, "heads": "marginal"})) == 4, "nothing is lost until a run"


@pytest.mark.parametrize(
    "text",
    [
        '{"settings": {',
        '{"settings": {}, "makers": []}',
        '{"settings": {}, "makers": [], "runs": [{"key": {}, "figures": {}, "seconds": 1}]}',
        '{"settings": {}, "makers": [], "runs": [{"key": {}, "figures": {}, "maker": 0}]}',
        '{"settings": {}, "makers": [{"tfalloc": ""}], "runs": [{"key": {}, "maker": 0}]}',
    ],
)
def test_a_damaged_file_is_refused(path, text):
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ValueError, match="damaged, pass --restart"):
        Runs(path, {})


def test_each_run_knows_its_command_and_versions(path):
    Runs(path, {}, command="one").complete(KEYS[:1], Work(), "study")
    for _ in range(2):
        Runs(path, {}, command="two").complete(KEYS, Work(), "study")
    kept = json.loads(path.read_text())
    assert [maker["command"] for maker in kept["makers"]] == ["one", "two"]
    assert [run["maker"] for run in kept["runs"]] == [0, 1, 1, 1]
    assert {"tfalloc", "tensorflow", "keras", "python", "cores"} <= kept["makers"][0].keys()


def test_two_processes_on_one_file_lose_nothing(path):
    """Each with a store of its own; threads, for the lock is between open files."""

    def work(name):
        runs = Runs(path, {}, command=name)
        for seed in range(40):
            runs.add({"method": name, "seed": seed}, {"x": seed}, 1.0)

    both = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    kept = json.loads(path.read_text())
    commands = [kept["makers"][run["maker"]]["command"] for run in kept["runs"]]
    assert len(commands) == 80 and commands == [run["key"]["method"] for run in kept["runs"]]


def test_what_another_process_did_meanwhile_is_not_done_again(path):
    mine, other = Runs(path, {"rows": 10}), Runs(path, {"rows": 10})
    calls = []

    def work(method, seed):
        calls.append((method, seed))
        other.complete(KEYS[1:3], Work(), "other")
        return {"x": 9.0}

    mine.complete(KEYS, work, "mine")
    assert calls == [("a", 0), ("b", 1)]
    for store in (mine, Runs(path, {"rows": 10})):
        assert sorted(store.frame().x) == [0.0, 1.0, 9.0, 9.0]
    restarted = Runs(path, {"rows": 10}, restart=True)
    restarted.complete(KEYS[:2], Work(), "again")
    assert len(restarted) == len(Runs(path, {"rows": 10})) == 2


def refuses(method, seed):
    if (method, seed) == ("b", 0):
        raise ValueError("no uplift; expected some.")
    return {"x": 1.0}


def test_a_run_that_is_refused_stops_no_other_and_is_tried_again(path, capsys):
    runs = Runs(path, {})
    runs.complete(KEYS, refuses, "study")
    assert "study: b 0 (2/4)" in (err := capsys.readouterr().err) and "refused: no uplift" in err
    for store in (runs, Runs(path, {})):
        assert len(store) == len(store.frame()) == 3 and {"method": "b", "seed": 0} not in store
        assert store.refused == [({"method": "b", "seed": 0}, "no uplift; expected some.")]
    again = Work()
    runs.complete(KEYS, again, "study")
    assert again.calls == [("b", 0)] and runs.refused == [] and len(runs) == 4


def test_if_all_are_refused_the_study_is(path):
    with pytest.raises(ValueError, match="no uplift"):
        Runs(path, {}).complete([{"method": "b", "seed": 0}], refuses, "study")
    Runs(path, {}).complete(KEYS, refuses, "study")
    assert len(Runs(path, {})) == 3


def refuse_all(method, seed):
    raise ValueError("too few rows.")


def test_a_restart_throws_nothing_away_before_it_has_something(path):
    Runs(path, {"rows": 10}, command="old").complete(KEYS, Work(), "study")
    before = path.read_text()
    with pytest.raises(ValueError, match="too few rows"):
        Runs(path, {"rows": 20}, restart=True).complete(KEYS, refuse_all, "study")
    assert path.read_text() == before
    runs = Runs(path, {"rows": 20}, restart=True, command="new")

    def first_refused(method, seed):
        return refuse_all(method, seed) if (method, seed) == ("a", 0) else {"x": 5.0}

    runs.complete(KEYS, first_refused, "study")
    for store in (runs, Runs(path, {"rows": 20})):
        assert store.frame().x.tolist() == [5.0] * 3
        assert store.refused == [({"method": "a", "seed": 0}, "too few rows.")]
        assert [maker["command"] for maker in store.provenance] == ["new"]


def test_two_restarts_at_once_keep_each_others_runs(path):
    Runs(path, {}).complete(KEYS, lambda method, seed: {"x": -1.0}, "old")
    one, two = Runs(path, {}, restart=True), Runs(path, {}, restart=True)
    one.complete(KEYS[:2], Work(), "one")
    two.complete(KEYS[2:], Work(), "two")
    one.complete(KEYS, refuse_all, "nothing is left to do")
    for store in (one, two, Runs(path, {})):
        assert sorted(store.frame().x) == [0.0, 0.0, 1.0, 1.0]


def test_a_damaged_file_gives_way_to_a_restart(path):
    Runs(path, {}).complete(KEYS, Work(), "study")
    path.write_text(path.read_text()[:-50])
    Runs(path, {}, restart=True).complete(KEYS, Work(), "study")
    assert len(Runs(path, {})) == len(KEYS)


@pytest.mark.parametrize("restart", [False, True])
def test_somebody_elses_files_are_left_alone(tmp_path, restart):
    for name, content in (("table.md", "mine"), ("figure.png", ""), ("runs.json", "[1, 2]")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text(content)
        products = ("table.md", "figure.png")
        with pytest.raises(ValueError, match=f"{name} is no study's of tfalloc .* another output"):
            Runs(folder / "runs.json", {}, products=products, restart=restart)
        assert [x.name for x in folder.iterdir()] == [name]
        assert (folder / name).read_text() == content
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "table.md").symlink_to(tmp_path / "table.md" / "table.md")
    with pytest.raises(ValueError, match="no study's"):
        Runs(tmp_path / "link" / "runs.json", {}, products=["table.md"], restart=restart)


def test_refusals_alone_block_no_other_settings(path):
    with pytest.raises(ValueError, match="too few rows"):
        Runs(path, {"rows": 1}).complete(KEYS, refuse_all, "study")
    runs = Runs(path, {"rows": 10})
    assert runs.refused == []
    runs.complete(KEYS, Work(), "study")
    assert len(Runs(path, {"rows": 10})) == len(KEYS)


def test_a_refusal_takes_the_place_of_no_run(path):
    mine, other = Runs(path, {}), Runs(path, {})

    def work(method, seed):
        other.complete([{"method": method, "seed": seed}], Work(), "other")
        raise ValueError("too few rows.")

    mine.complete(KEYS[:1], work, "mine")
    assert KEYS[0] in mine and mine.refused == [] and len(Runs(path, {})) == 1


def test_other_arguments_are_refused_as_far_as_they_are_known(path):
    runs = Runs(path, {})
    runs.add({"method": "a", "seed": 0}, {"arguments": {"C": 1.0, "sizes": (3, 4)}}, 1.0)
    runs.add({"method": "b", "seed": 0}, {}, 1.0)
    runs.check_arguments({"C": 1.0, "sizes": (3, 4), "new": 5}, method="a")
    runs.check_arguments({"C": 2.0}, method="b")
    runs.check_arguments({"C": 2.0}, method="c")
    with pytest.raises(ValueError, match="runs of method 'a' with .*'C': 1.0.*now .*'C': 2.0"):
        runs.check_arguments({"C": 2.0, "sizes": (3, 4)}, method="a")


def test_progress_says_a_line_for_each_run(path, capsys):
    Runs(path, {}).complete(KEYS, Work(), "study")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and lines[0].startswith("study: a 0 (1/4)")
    Runs(path, {}).complete(KEYS, Work(), "study")
    assert capsys.readouterr().err == ""


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    work = Work()
    for folder in ("file", "file/deep"):
        with pytest.raises(ValueError, match="cannot write .*file is no dir.*a writable place"):
            Runs(tmp_path / folder / "runs.json", {}).complete(KEYS, work, "study")
    assert work.calls == [], "runs that cannot be kept must not be made"

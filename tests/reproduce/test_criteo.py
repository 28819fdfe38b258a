"""The Criteo protocol at a reduced size: known AUCC, every method, resumption, a file."""

import dataclasses
import inspect
import shutil
import warnings

import keras
import numpy as np
import pytest
from matplotlib import image

import tfalloc
from tfalloc import datasets
from tfalloc.evaluation import aucc, aucc_score
from tfalloc.reproduce import Runs, comparison, criteo, criteo_report, truth
from tfalloc.reproduce.criteo_report import CONTROL

pytestmark = pytest.mark.slow

SOME = ["TSM-SL"]
NETS_OF = {name: each.net for name, each in criteo.METHODS.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "criteo"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*matched rows")  # conversions are rare
        runs = criteo.study(folder, seeds=1, settings=criteo.FAST, methods=SOME, command="typed")
        return folder, runs


def test_true_aucc_is_that_of_true_uplifts():
    users = datasets.criteo_like(20_000, seed=7)
    uplift, spend = (x[:, 1] - x[:, 0] for x in (users.true_response, users.true_cost))
    score = np.random.default_rng(0).random(len(users)) + uplift / spend
    order = np.argsort(-score)
    gained, spent = (np.cumsum(x[order].astype("f8")) for x in (uplift, spend))
    steps = spent[-1] * np.arange(1, 201) / 200
    at = gained[np.minimum(np.searchsorted(spent, steps * (1 - 1e-12)), len(users) - 1)]
    expected = at.sum() / (gained[-1] * 201)
    assert truth.true_aucc(score, users) == pytest.approx(expected, abs=1e-4)


def test_true_aucc_of_the_truth_is_the_simulations():
    users = datasets.criteo_like(200_000, seed=8)
    best = aucc_score(users.true_response, users.true_cost)
    assert abs(truth.true_aucc(best, users) - 0.80) < 0.01
    random = np.random.default_rng(0).random(len(users))
    assert abs(truth.true_aucc(random, users) - 0.5) < 0.01


def test_methods_are_run_with_their_control(made):
    frame = made[1].frame()
    assert frame.method.tolist() == [CONTROL, *SOME] and (frame.seconds > 0).all()
    assert frame.true_aucc.between(0.2, 0.85).all() and frame.true_aucc.nunique() == 2


class Recorded:
    """Stands for a model: keeps what it is compiled and fitted with."""

    def compile(self, optimizer, **objective):
        self.optimizer, self.objective = optimizer, objective

    def fit(self, trial, **options):
        self.options = options


def test_settings_are_the_papers(monkeypatch):
    """Section 4.3 of Yan et al. 2023."""
    usual, made = criteo.Settings(), []

    def make(*arguments, **options):
        made.append((arguments, options))
        return Recorded()

    monkeypatch.setattr(criteo, "AllocationModel", make)
    assert inspect.signature(criteo.study).parameters["seeds"].default == 20
    assert criteo.SPLIT == [0.7, 0.3]
    for name in ("FD", "NES"):
        model, _ = criteo.METHODS[name].fit(usual, None, 5)
        assert made.pop() == ((2, "paper"), {"seed": 5})
        assert float(model.optimizer.learning_rate) == pytest.approx(1e-4)
        assert isinstance(model.optimizer, keras.optimizers.Adam)
        options = {name: model.options[name] for name in ("epochs", "batch_size")}
        assert options == {"epochs": 10, "batch_size": 10_000}
        assert not model.options["early_stopping"] and not model.options["validation_split"]
        gradient = model.objective.pop("gradient")
        expected = {"goal_weight": 200.0, "goal_scale": "paper", "budget": (0.039, 0.047)}
        assert model.objective == {**expected, "jit_compile": True}
        if name == "FD":
            assert (gradient.num_entries, gradient.step) == (4_000, 3e-4)
        else:
            assert (gradient.num_directions, gradient.sigma) == (2_000, 1e-3)


def test_the_papers_network():
    """512-256-128-64 and heads of 32-1: Dense, ReLU, batch normalisation; He initialisation."""
    network = tfalloc.AllocationModel(2, "paper", seed=0)
    network.adapt(datasets.criteo_like(10_000, seed=0).data)
    layers = [x for x in network.network._flatten_layers() if isinstance(x, keras.layers.Dense)]
    hidden = [layer for layer in layers if layer.activation is keras.activations.relu]
    assert [layer.units for layer in hidden] == [512, 256, 128, 64, 4 * 32]
    assert all(isinstance(x.kernel_initializer, keras.initializers.HeNormal) for x in hidden)
    norms = [
        x
        for x in network.network._flatten_layers()
        if isinstance(x, keras.layers.BatchNormalization)
    ]
    assert [x.gamma.shape[0] for x in norms] == [512, 256, 128, 64, 4 * 32]


def test_the_second_call_trains_nothing_and_seeds_extend_it(made, monkeypatch, tmp_path):
    folder, runs = made
    done, figures = [], runs.figures({"method": CONTROL, "seed": 0})
    monkeypatch.setattr(criteo.Protocol, "run", lambda _, **key: done.append(key) or figures)
    criteo.study(folder, seeds=1, settings=criteo.FAST, methods=SOME)
    assert done == []
    shutil.copytree(folder, tmp_path / "more")
    criteo.study(tmp_path / "more", seeds=2, settings=criteo.FAST, methods=SOME)
    assert done == [{"method": name, "seed": 1} for name in (CONTROL, *SOME)]
    with pytest.raises(ValueError, match=r"epochs=1, now epochs=2"):
        criteo.study(folder, settings=dataclasses.replace(criteo.FAST, epochs=2))


def test_table_and_figure_have_the_numbers_of_the_runs(made):
    folder, runs = made
    text = (folder / "table.md").read_text()
    for found in runs.frame().itertuples():
        line = next(x for x in text.splitlines() if x.startswith(f"| {found.method} |"))
        assert f"| {found.true_aucc:.4f} |" in line
    assert "| TSM-SL | small | 0.7561 ± 0.0113 |" in text and "`typed`" in text
    picture = image.imread(folder / "figure.png")
    assert min(picture.shape[:2]) > 400 and picture[..., :3].std() > 0.05


def test_methods_keep_their_place_and_say_how_many_seeds_they_have(tmp_path):
    """Runs made by several calls, the last of one method only."""
    runs = Runs(tmp_path / "runs.json", dataclasses.asdict(criteo.FAST))
    for method, seeds in (("DRP", 2), (CONTROL, 2), ("TSM-SL", 1)):
        for seed in range(seeds):
            figures = {"aucc": 0.5 + seed / 10, "true_aucc": 0.6}
            runs.add({"method": method, "seed": seed}, figures, 1.0)
    criteo_report.write(tmp_path, runs, NETS_OF)
    lines = [x.split(" | ") for x in (tmp_path / "table.md").read_text().splitlines() if "|" in x]
    assert lines[0][-1] == "seeds |"
    assert [(x[0], x[-1]) for x in lines[2:]] == [
        (f"| {CONTROL}", "2 |"), ("| TSM-SL", "1 |"), ("| DRP", "2 |")
    ]  # fmt: skip


def test_a_figure_that_fails_is_a_warning(tmp_path, monkeypatch):
    runs = Runs(tmp_path / "runs.json", dataclasses.asdict(criteo.FAST))
    runs.add({"method": CONTROL, "seed": 0}, {"aucc": 0.5, "true_aucc": 0.6}, 1.0)
    monkeypatch.setattr(criteo_report, "_draw", lambda *_: 1 / 0)
    with pytest.warns(UserWarning, match=r"figure.png was not drawn \(ZeroDivisionError"):
        criteo_report.write(tmp_path, runs, NETS_OF)
    assert (tmp_path / "table.md").exists() and not (tmp_path / "figure.png").exists()


def test_without_its_control_there_is_no_table(tmp_path):
    runs = Runs(tmp_path / "runs.json", dataclasses.asdict(criteo.FAST))

    def work(method, seed):
        if method == CONTROL:
            raise ValueError("no uplift.")
        return {"aucc": 0.5, "true_aucc": 0.6}

    runs.complete([{"method": name, "seed": 0} for name in (CONTROL, "FD")], work, "study")
    with pytest.raises(ValueError, match="TSM-SL, paper's net, with which .* no run: no uplift"):
        criteo_report.write(tmp_path, runs, NETS_OF)


def test_arguments_are_those_of_the_method():
    methods = criteo.METHODS
    assert methods[CONTROL].arguments == {"goal_weight": 0.0, "batch_size": criteo.BATCH}
    assert "goal_weight" not in methods["DFCL-IFD"].arguments
    assert methods["FD"].arguments["num_entries"] == 4_000
    assert "num_entries" not in methods["NES"].arguments


class Ranks:
    """Stands for a trained model: ranks users by a feature, and by noise of its seed."""

    def __init__(self, seed):
        self.seed = seed

    @classmethod
    def fit(cls, settings, trial, seed):
        return cls(seed), 1.0

    def predict(self, rows, **options):
        noise = np.random.default_rng(self.seed).random(len(rows))
        uplift = rows.features["f9"] - 13.0 + noise
        zeros = np.zeros(len(rows))
        return {"response": np.stack([zeros, uplift], 1), "cost": np.stack([zeros, zeros + 1], 1)}


def test_the_official_file_is_split_once_for_all_seeds(tmp_path, monkeypatch):
    path = datasets.criteo_like_parquet(tmp_path / "criteo.parquet", num_rows=60_000)
    parts, split = [], criteo.Protocol._split
    monkeypatch.setattr(
        criteo.Protocol, "_split", lambda self, seed: parts.append(seed) or split(self, seed)
    )
    for name in (CONTROL, "DRP"):
        monkeypatch.setitem(criteo.METHODS, name, criteo.Method(Ranks.fit, "small", {}))
    where = {"data": path, "methods": ["DRP"], "settings": criteo.FAST}
    frame = criteo.study(tmp_path / "out", seeds=2, **where).frame()
    assert parts == [0] and "true_aucc" not in frame and len(frame) == 4
    test = datasets.criteo(path).split([0.7, 0.3], 0)[1]
    for found in frame.itertuples():
        predicted = Ranks(found.seed).predict(test)
        score = aucc_score(predicted["response"], predicted["cost"])
        with pytest.warns(UserWarning, match="neither it nor its interval"):
            assert found.aucc == pytest.approx(aucc(score, test).value)
    difference = comparison(frame, "aucc", reference=CONTROL).difference
    assert difference[1] == 0.0  # the same ranking under two names
    assert "2 seeds on one split" in (tmp_path / "out" / "table.md").read_text()


def test_bad_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"methods=\['FDD'\] are not known"):
        criteo.study(tmp_path, methods=["FDD"])
    with pytest.raises(FileNotFoundError):
        criteo.study(tmp_path, data=tmp_path / "none.csv")

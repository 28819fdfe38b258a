"""Roles, arms, propensities, splits, batches: in memory and streamed alike."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from tfalloc.data import RCTData

ROLES = {"treatment": "arm", "response": "y", "cost": "z"}
OPTIONS = {**ROLES, "features": ["number", "flag", "city", "count"]}


def trial_frame(rows=5000, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "number": np.arange(rows, dtype="f4"),
            "flag": rng.random(rows) < 0.3,
            "city": rng.choice(["rome", "oslo", "bern"], rows, p=[0.6, 0.3, 0.1]),
            "count": rng.integers(0, 9, rows),
            "arm": rng.choice(["none", "mail", "gift"], rows, p=[0.2, 0.3, 0.5]),
            "y": (rng.random(rows) < 0.3).astype(int),
            "z": rng.random(rows),
            "w": rng.uniform(0.5, 2.0, rows),
        }
    )


@pytest.fixture(params=["memory", "streamed"])
def source(request, tmp_path):
    """A function that reads a frame, either way."""

    def read(frame, **options):
        options = {**OPTIONS, **options}
        if request.param == "memory":
            return RCTData.from_frame(frame, **options)
        folder = tmp_path / f"part{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        half = len(frame) // 2
        for i, piece in enumerate((frame[:half], frame[half:])):
            piece.to_parquet(folder / f"{i}.parquet", row_group_size=1000, index=False)
        data = RCTData.from_parquet(folder, in_memory=False, **options)
        assert data.streaming
        return data

    return read


def rows_of(data, batch_size=700, **options):
    """All rows in one epoch of batches, as a dict of arrays."""
    found = {}
    for features, targets, *weight in data.batches(batch_size, **options):
        columns = {**features, **targets, **({"weight": weight[0]} if weight else {})}
        for name, value in columns.items():
            found.setdefault(name, []).append(value.numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def test_columns_survive(source):
    frame = trial_frame()
    data = source(frame, sample_weight="w")
    rows = rows_of(data)
    assert data.feature_kinds == {
        "number": "numeric", "flag": "numeric", "city": "string", "count": "numeric",
    }  # fmt: skip
    for name in ("number", "flag", "count"):
        np.testing.assert_array_equal(rows[name], frame[name].astype("f4"))
    assert [value.decode() for value in rows["city"]] == frame["city"].tolist()
    cheapest_first = frame.groupby("arm")["z"].mean().sort_values().index.tolist()
    assert data.treatment_names == cheapest_first
    assert [data.treatment_names[t] for t in rows["treatment"]] == frame["arm"].tolist()
    np.testing.assert_array_equal(rows["response"], frame["y"].astype("f4"))
    np.testing.assert_allclose(rows["cost"], frame["z"], rtol=1e-6)
    np.testing.assert_allclose(rows["weight"], frame["w"], rtol=1e-6)
    share = frame.groupby("arm")["w"].sum() / frame["w"].sum()
    np.testing.assert_allclose(rows["propensity"], share[frame["arm"]], rtol=1e-6)
    assert data.propensity_source == "observed"
    assert len(data) == data.num_rows == len(frame)
    assert "3 treatments" in repr(data)


def test_arm_order_and_mappings(source):
    frame = trial_frame()
    cost = {"none": 0.0, "mail": 0.5, "gift": 2.0}
    data = source(frame, cost=cost, propensity={"none": 0.2, "mail": 0.3, "gift": 0.5})
    assert data.treatment_names == ["none", "mail", "gift"]
    rows = rows_of(data)
    np.testing.assert_allclose(rows["cost"], frame["arm"].map(cost))
    assert data.propensity_source == "mapping"
    np.testing.assert_allclose(
        rows["propensity"], frame["arm"].map({"none": 0.2, "mail": 0.3, "gift": 0.5}), rtol=1e-6
    )
    assert source(frame, treatments=["mail", "none", "gift"]).treatment_names[0] == "mail"


def test_integer_arms_keep_their_index_whatever_the_mapping_order():
    frame = trial_frame().assign(arm=lambda f: f["city"].map({"rome": 0, "oslo": 1, "bern": 2}))
    data = RCTData.from_frame(frame, **{**OPTIONS, "cost": {2: 5.0, 0: 0.0, 1: 1.0}})
    np.testing.assert_array_equal(data.treatment, frame["arm"])
    np.testing.assert_array_equal(data.cost, frame["arm"].map({0: 0.0, 1: 1.0, 2: 5.0}))


def test_propensity_column(source):
    frame = trial_frame().assign(p=lambda f: np.where(f["flag"], 0.25, 0.5))
    data = source(frame, propensity="p")
    np.testing.assert_allclose(rows_of(data)["propensity"], frame["p"])
    assert data.propensity_source == "column"
    assert np.isnan(data.describe().balance_p_value)


def test_split_is_a_partition_with_the_trial_s_propensities(source):
    data = source(trial_frame())
    parts = data.split([0.6, 0.2, 0.2], seed=3)
    numbers = [rows_of(part)["number"] for part in parts]
    assert sorted(np.concatenate(numbers)) == list(range(5000))
    for part, share in zip(parts, [0.6, 0.2, 0.2], strict=True):
        # Four standard errors of a binomial share.
        assert abs(len(part) / 5000 - share) < 4 * np.sqrt(share * (1 - share) / 5000)
    whole, part = rows_of(data), rows_of(parts[1])
    by_arm = dict(zip(whole["treatment"], whole["propensity"], strict=True))
    assert all(by_arm[t] == p for t, p in zip(part["treatment"], part["propensity"], strict=True))


def test_streamed_splits_equal_splits_in_memory(tmp_path):
    frame = trial_frame()
    frame.to_parquet(tmp_path / "t.parquet", row_group_size=333, index=False)
    streamed = RCTData.from_parquet(tmp_path / "t.parquet", in_memory=False, **OPTIONS)
    memory = RCTData.from_parquet(tmp_path / "t.parquet", **OPTIONS)
    assert not memory.streaming
    for a, b in zip(streamed.split([0.5, 0.5], 7), memory.split([0.5, 0.5], 7), strict=True):
        for c, d in zip(a.split([0.3, 0.7], 7), b.split([0.3, 0.7], 7), strict=True):
            one, two = rows_of(c), rows_of(d)
            for name in one:
                np.testing.assert_array_equal(one[name], two[name])
        left, right = a.describe(), b.describe()
        assert left.num_rows == right.num_rows
        np.testing.assert_allclose(left.balance_statistic, right.balance_statistic, rtol=1e-6)


def test_a_second_split_with_the_same_seed_is_independent():
    rows = 20_000
    data = RCTData(np.zeros([rows, 1]), np.arange(rows) % 2, np.zeros(rows), np.zeros(rows))
    first, _ = data.split([0.5, 0.5], seed=1)
    again, _rest = first.split([0.5, 0.5], seed=1)
    assert abs(len(again) / len(first) - 0.5) < 4 * 0.5 / np.sqrt(len(first))
    other, _ = data.split([0.5, 0.5], seed=2)
    assert not np.array_equal(other._source.block.row, first._source.block.row)


def test_split_refusals():
    data = RCTData(np.zeros([8, 1]), np.arange(8) % 2, np.zeros(8), np.zeros(8))
    for shares in ([0.5, 0.4], [1.5, -0.5], []):
        with pytest.raises(ValueError, match="sum to 1"):
            data.split(shares)
    with pytest.raises(ValueError, match="part 0 .*empty"):
        data.split([1e-6, 1 - 1e-6])


def test_batches_static_shape_and_cardinality(source):
    data = source(trial_frame(), sample_weight="w")
    dataset = data.batches(700)
    assert int(dataset.cardinality()) == 8
    features, targets, weight = dataset.element_spec
    assert list(features) == ["number", "flag", "city", "count"]
    assert features["city"].dtype == tf.string and features["flag"].dtype == tf.float32
    assert targets["treatment"].dtype == tf.int32
    assert {spec.shape.rank for spec in (*features.values(), *targets.values(), weight)} == {1}
    dropped = data.batches(700, drop_remainder=True)
    assert int(dropped.cardinality()) == len(list(dropped)) == 7
    assert dropped.element_spec[1]["cost"].shape == (700,)
    assert [len(b[1]["cost"]) for b in dataset] == [700] * 7 + [100]
    with pytest.raises(ValueError, match="exceeds"):
        data.batches(10_000, drop_remainder=True)
    with pytest.raises(ValueError, match="positive integer"):
        data.batches(0)


@pytest.mark.parametrize("batch_size", [1, 700, 3000])
def test_one_epoch_has_every_row_once(source, batch_size):
    data = source(trial_frame(200 if batch_size == 1 else 3000))
    for shuffle in (False, True):
        numbers = rows_of(data, batch_size, shuffle=shuffle)["number"]
        assert sorted(numbers) == list(range(len(data)))
        assert (list(numbers) == list(range(len(data)))) != shuffle


def test_order_is_a_function_of_seed_and_epoch(source):
    data = source(trial_frame())

    def epochs(**options):
        dataset = data.batches(700, shuffle=True, **options)
        return [
            np.concatenate([f["number"].numpy() for f, _ in dataset]).tolist() for _ in range(2)
        ]

    first, second = epochs(seed=1)
    assert first != second
    assert epochs(seed=1) == [first, second]
    assert epochs(seed=2)[0] != first
    same = epochs(seed=1, epoch_varying=False)
    assert same[0] == same[1] == first
    repeated = data.batches(700, shuffle=True, seed=1, repeat=True)
    assert int(repeated.cardinality()) == tf.data.INFINITE_CARDINALITY
    numbers = np.concatenate([f["number"].numpy() for f, _ in repeated.take(16)]).tolist()
    assert numbers == first + second


@pytest.mark.parametrize("shuffle", [False, True])
def test_start_leaves_out_what_came_before(source, shuffle):
    data, batch_size = source(trial_frame(2500)), 600
    options = {"shuffle": shuffle, "seed": 3, "drop_remainder": True}

    def numbers(dataset):
        return [f["number"].numpy().tolist() for f, _ in dataset]

    steps = len(data) // batch_size
    stream = data.batches(batch_size, repeat=True, **options)
    wanted = numbers(stream.take(3 * steps))
    for start in ((0, steps - 1), (1, 2)):
        skipped = start[0] * steps + start[1]
        dataset = data.batches(batch_size, repeat=True, start=start, **options)
        assert numbers(dataset.take(3 * steps - skipped)) == wanted[skipped:]
        assert numbers(dataset.take(2)) == wanted[skipped : skipped + 2]  # and again
        epochs = data.batches(batch_size, start=start, **options)
        rest = wanted[skipped : (start[0] + 1) * steps]
        assert numbers(epochs) == rest
        following = wanted[(start[0] + 1) * steps :][:steps]
        if following:
            assert numbers(epochs) == following
    with pytest.raises(ValueError, match=rf"start=\(0, {steps}\); expected \(epoch, batch\)"):
        data.batches(batch_size, start=(0, steps), **options)


def test_fingerprints_tell_rows_columns_and_order_apart(source):
    frame = trial_frame()
    same = [source(frame).fingerprint() for _ in range(2)]
    assert same[0] == same[1]
    dearer, renamed = frame.copy(), frame.rename(columns={"number": "age"})
    dearer.loc[17, "number"] += 1
    others = [source(each).fingerprint() for each in (dearer, frame.iloc[:-1])]
    others.append(source(renamed, features=["age", "flag", "city", "count"]).fingerprint())
    one, two = (part.fingerprint() for part in source(frame).split([0.5, 0.5]))
    assert len({same[0], *others, one, two}) == 6


def test_a_file_that_goes_missing_is_named(tmp_path):
    trial_frame().to_parquet(tmp_path / "t.parquet", row_group_size=333, index=False)
    data = RCTData.from_parquet(tmp_path / "t.parquet", in_memory=False, **OPTIONS)
    (tmp_path / "t.parquet").unlink()
    with pytest.raises(tf.errors.OpError):
        next(iter(data.batches(700)))
    assert isinstance(data.failure, FileNotFoundError)
    assert data.failure.filename == str(tmp_path / "t.parquet") and "gone" in str(data.failure)


def test_shuffle_mixes_row_groups(tmp_path):
    rows = 400_000  # more than the pool, so that it overflows
    arm = np.arange(rows) % 2
    table = pa.table({"x": np.arange(rows, dtype="f4"), "arm": arm, "y": arm})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=10_000)
    data = RCTData.from_parquet(
        tmp_path / "t.parquet", treatment="arm", response="y", cost={0: 0.0, 1: 1.0},
        features=["x"], in_memory=False,
    )  # fmt: skip
    numbers = [f["x"].numpy() for f, _ in data.batches(8192, shuffle=True)]
    assert np.unique(np.concatenate(numbers)).size == rows
    # Rows of one batch come from many row groups, not from one.
    assert min(len(np.unique(batch // 10_000)) for batch in numbers) > 10


def test_matrix_features_and_array_arguments():
    x = np.arange(12).reshape(6, 2)
    data = RCTData(x, [0, 1, 0, 1, 0, 1], np.zeros(6), np.ones(6), sample_weight=np.ones(6))
    features, _targets, weight = next(iter(data.batches(4)))
    np.testing.assert_array_equal(features, x[:4])
    assert data.is_matrix and features.dtype == tf.float32 and weight.shape == (4,)
    np.testing.assert_array_equal(data.features, x)
    assert data.frame().columns.tolist()[:2] == ["feature_0", "feature_1"]


def test_response_may_be_the_cost(source):
    rows = rows_of(source(trial_frame(), cost="y"))
    np.testing.assert_array_equal(rows["cost"], rows["response"])


def test_only_strings():
    data = RCTData({"s": ["a", "b", "a", ""]}, [0, 1, 0, 1], np.zeros(4), np.ones(4))
    assert [v.decode() for v in rows_of(data, 3)["s"]] == ["a", "b", "a", ""]


def test_frame_and_take():
    frame = trial_frame(50)
    data = RCTData.from_frame(frame, **OPTIONS, sample_weight="w")
    back = data.frame()
    assert back["treatment"].tolist() == frame["arm"].tolist()
    assert back["city"].tolist() == frame["city"].tolist()
    part = data.take([3, 1])
    assert part.frame()["number"].tolist() == [3, 1]
    assert part.propensity[0] == data.propensity[3]
    assert len(data.take(frame["flag"].to_numpy())) == frame["flag"].sum()
    with pytest.raises(ValueError, match="out of range"):
        data.take([50])
    with pytest.raises(ValueError, match="non-empty"):
        data.take([])
    with pytest.raises(ValueError, match="target column"):
        RCTData({"cost": [1, 2]}, [0, 1], [0, 1], [0, 1]).frame()


def test_streamed_data_say_what_they_cannot(tmp_path):
    trial_frame(50).to_parquet(tmp_path / "t.parquet", index=False)
    data = RCTData.from_parquet(tmp_path / "*.parquet", in_memory=False, **OPTIONS)
    with pytest.raises(ValueError, match="streamed; use batches"):
        data.frame()


def test_missing_indicator(source):
    frame = trial_frame()
    frame.loc[::7, "number"] = np.nan
    frame.loc[::5, "city"] = None
    data = source(frame, missing="indicator")
    rows = rows_of(data)
    np.testing.assert_array_equal(np.isnan(rows["number"]), frame["number"].isna())
    assert [v.decode() for v in rows["city"]] == frame["city"].fillna("").tolist()


def test_nullable_categorical_and_boolean_columns():
    frame = pd.DataFrame(
        {
            "n": pd.array([1, None, 3, 4], dtype="Int64"),
            "c": pd.Categorical(["a", "b", "a", "b"]),
            "b": [True, False, True, False],
            "arm": [True, False, True, False], "y": [True, False, False, True], "z": 0,
        }
    )  # fmt: skip
    data = RCTData.from_frame(frame, **ROLES, missing="indicator")
    assert data.feature_kinds == {"n": "numeric", "c": "string", "b": "numeric"}
    assert data.treatment.tolist() == [1, 0, 1, 0] and data.response_kind == "binary"
    assert np.isnan(data.features["n"][1])


def test_hive_partitions(tmp_path):
    for city in ("rome", "oslo"):
        (tmp_path / f"city={city}").mkdir()
        trial_frame(40).drop(columns="city").to_parquet(
            tmp_path / f"city={city}/x.parquet", index=False
        )
    data = RCTData.from_parquet(tmp_path, in_memory=False, **OPTIONS)
    assert data.feature_kinds["city"] == "string" and len(data) == 80


def test_from_tfds_dataset():
    frame = trial_frame(30)
    columns = {name: frame[name].to_numpy() for name in ("number", "city", "y", "z", "arm")}
    columns["city"], columns["arm"] = columns["city"].tolist(), columns["arm"].tolist()
    dataset = tf.data.Dataset.from_tensor_slices(columns)
    for form in (dataset, dataset.batch(7)):
        data = RCTData.from_tfds(form, **ROLES, features=["number", "city"])
        assert data.frame()["treatment"].tolist() == frame["arm"].tolist()
    with pytest.raises(ValueError, match="as_supervised"):
        RCTData.from_tfds(tf.data.Dataset.from_tensors((1, 2)), **OPTIONS)


def test_arm_moments_equal_direct_ones(tmp_path):
    rng = np.random.default_rng(5)
    arm, weight = np.arange(4000) % 3, rng.uniform(0.5, 2.0, 4000)
    y = np.where(rng.random(4000) < 0.2 * (1 + arm), rng.lognormal(1, 0.7, 4000), 0).astype("f4")
    frame = pd.DataFrame({"x": rng.normal(size=4000), "arm": arm, "y": y, "w": weight})
    frame["z"] = np.where(arm == 0, 0.0, y)
    frame.to_parquet(tmp_path / "trial.parquet")
    roles = {"treatment": "arm", "response": "y", "cost": "z", "sample_weight": "w"}
    streamed = RCTData.from_parquet(tmp_path / "trial.parquet", in_memory=False, **roles)
    for data in (RCTData.from_frame(frame, **roles), streamed):
        moments = data.arm_moments("response")
        assert moments.nonnegative and not moments.binary
        assert moments.total_mean == pytest.approx(np.average(y, weights=weight), rel=1e-5)
        for k in range(3):
            rows = arm == k
            above = rows & (y > 0)
            share = weight[above].sum() / weight[rows].sum()
            log = np.log(y[above])
            mean_log = np.average(log, weights=weight[above])
            spread = np.average((log - mean_log) ** 2, weights=weight[above])
            assert moments.positive_share[k] == pytest.approx(share, rel=1e-5)
            expected = np.average(y[above], weights=weight[above])
            assert moments.positive_mean[k] == pytest.approx(expected, rel=1e-5)
            assert moments.log_variance[k] == pytest.approx(spread, rel=1e-4)
        nothing = data.arm_moments("cost")
        assert nothing.positive_share[0] == nothing.positive_mean[0] == 0


def arms_of(labels, **options):
    rows = len(labels)
    frame = pd.DataFrame({"x": np.arange(rows) % 7, "arm": labels, "y": np.arange(rows) % 2})
    return RCTData.from_frame(
        frame.assign(z=options.pop("z", 0.0)), **{**ROLES, "features": ["x"], **options}
    ).treatment_names


def test_the_cheapest_label_comes_first_unless_an_order_is_given():
    labels = ["mail", "none", "gift"] * 4
    assert arms_of(labels) == ["gift", "mail", "none"]  # costs are equal: by the alphabet
    assert arms_of(labels, z=[1, 0, 2] * 4) == ["none", "mail", "gift"]
    assert arms_of(labels, cost={"gift": 2, "none": 0, "mail": 1}) == ["none", "mail", "gift"]
    ordered = pd.Categorical(labels, ["gift", "none", "more", "mail"], ordered=True)
    assert arms_of(ordered, z=[1, 0, 2] * 4) == ["gift", "none", "mail"]
    assert arms_of(labels, treatments=["mail", "gift", "none"], z=[1, 0, 2] * 4)[0] == "mail"
    data = RCTData(np.zeros([6, 1]), ["mail", "none", "gift"] * 2, [0] * 6, [1, 0, 2] * 2)
    assert data.treatment_names == ["none", "mail", "gift"]
    assert "baseline: 'none'" in str(data.describe())


def test_labels_are_found_whatever_spaces_are_around_them():
    names = [" none", "mail "]
    assert arms_of(names * 3, cost={"none": 0, "mail": 1}) == names
    assert arms_of(names * 3, treatments=["mail", "none"]) == names[::-1]
    with pytest.raises(ValueError, match="'nothing'"):
        arms_of(names * 3, cost={"nothing": 0, "mail": 1})


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ([0, 2**40, 1, 0], "treatment 2 .* has no rows, and there are 1,099,511,627,777"),
        ([0, 2**70, 1, 0], "non-integer"),
        ([0, 10**401, 1, 0], "treatment"),
        ([f"u{i}" for i in range(10_001)], "10,001 distinct values.*looks like an identifier"),
    ],
)
def test_arms_that_are_none(arm, message):
    with pytest.raises(ValueError, match=message):
        RCTData(np.zeros([len(arm), 1]), arm, np.zeros(len(arm)), np.zeros(len(arm)))
    with pytest.raises(ValueError, match="has no rows"):
        RCTData(np.zeros([2, 1]), [0, 1], [0, 1], [0, 1], num_treatments=2**40)


def test_a_response_in_words(source):
    frame = trial_frame(200)
    bought = frame["y"].to_numpy()
    for words, positive in (
        (["No", "Yes"], None),
        (["false", "true"], None),
        (["kept", "left"], "left"),
        ([1, 2], 2),
    ):
        frame["y"] = np.array(words, object)[bought] if words[0] != 1 else bought + 1
        data = source(frame, positive=positive)
        assert data.response_kind == "binary"
        np.testing.assert_array_equal(rows_of(data)["response"], bought)
    frame["y"] = np.array(["kept", "left"], object)[bought]
    for given in (None, "stayed"):
        with pytest.raises(ValueError, match="two labels and positive= the one that counts as 1"):
            source(frame, positive=given)
    frame.loc[7, "y"] = None
    with pytest.raises(ValueError, match="missing"):
        source(frame, positive="left")


def test_clusters_are_kept_whole(source):
    frame = trial_frame(2000).assign(home=lambda f: "home " + (f["number"] // 4).astype(str))
    data = source(frame, cluster="home")
    parts = data.split([0.7, 0.3], seed=1)
    homes = [set(rows_of(part)["number"] // 4) for part in parts]
    assert len(homes[0]) + len(homes[1]) == 500 and not homes[0] & homes[1]
    assert abs(len(parts[0]) / 2000 - 0.7) < 4 * np.sqrt(0.21 / 500)
    again = [set(rows_of(part)["number"] // 4) for part in parts[0].split([0.5, 0.5], seed=1)]
    assert not again[0] & again[1] and min(map(len, again)) > 100
    assert len(set(rows_of(parts[1])["cluster"])) == len(homes[1])
    if not data.streaming:
        assert len(set(data.cluster)) == 500
        assert len(set(parts[1].cluster)) == len(homes[1])
    frame.loc[3, "home"] = None
    with pytest.raises(ValueError, match="cluster 'home' has no id in row 3"):
        source(frame, cluster="home")


def test_clusters_are_the_same_however_they_are_typed():
    arguments = (np.zeros([400, 1]), np.arange(400) % 2, np.zeros(400), np.zeros(400))
    ids = np.arange(400) // 4
    sizes = {
        tuple(len(p) for p in RCTData(*arguments, cluster=given).split([0.5, 0.5]))
        for given in (ids, ids.astype(str), ids.astype("f8"), pd.Categorical(ids.astype(str)))
    }
    assert len(sizes) == 1
    assert RCTData(*arguments).cluster is None


def test_columns_that_look_like_identifiers_are_named():
    frame = trial_frame(500).assign(user=lambda f: "u" + f.index.astype(str))
    with pytest.warns(UserWarning, match=r"\['number', 'user'\] differ in nearly every row"):
        RCTData.from_frame(frame, **ROLES)
    RCTData.from_frame(frame, **{**OPTIONS, "features": ["user", "number"]})  # asked for

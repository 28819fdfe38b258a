"""CSV: text stays text, every field is counted, identifiers come out as they went in."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfalloc.data import FeatureSchema, RCTData, csv_table, feature_chunks
from tfalloc.data.csv_table import IDS, CsvTable

TEXT = """id,age,zip,flag,region,arm,bought,spent
007,3,02139,True,NA,None,1,0.5
9007199254740993,,"02,140",false,,mail,0,1e-3
 x ,+5,10000,TRUE,"a ""b"" c",None,1,.25
"""


def write(path, text):
    path.write_bytes(text.encode())
    return path


def test_types_and_rows(tmp_path):
    table = CsvTable(write(tmp_path / "t.csv", TEXT))
    assert table.types(table.columns) == {
        "id": "text", "age": "float", "zip": "text", "flag": "boolean", "region": "text",
        "arm": "text", "bought": "integer", "spent": "float",
    }  # fmt: skip
    (frame,) = table.chunks(table.columns, ids="id")
    assert frame[IDS].tolist() == ["007", "9007199254740993", " x "]
    assert frame["zip"].tolist() == ["02139", "02,140", "10000"]
    assert frame["arm"].tolist() == ["None", "mail", "None"]
    assert frame["region"].tolist()[::2] == ["NA", 'a "b" c'] and pd.isna(frame["region"][1])
    np.testing.assert_array_equal(frame["age"], [3, np.nan, 5])
    assert frame["flag"].tolist() == [True, False, True]
    assert frame["bought"].tolist() == [1, 0, 1] and frame["spent"].tolist() == [0.5, 1e-3, 0.25]


def test_a_trial_and_its_users(tmp_path):
    path = write(tmp_path / "t.csv", TEXT)
    data = RCTData.from_csv(
        path, treatment="arm", response="bought", cost="spent", missing="indicator",
        features=["age", "zip", "flag", "region"],
    )  # fmt: skip
    assert sorted(data.treatment_names) == ["None", "mail"]
    assert data.features["region"].tolist() == ["NA", "", 'a "b" c']
    schema = FeatureSchema(kinds=data.feature_kinds, missing="indicator")
    ((ids, columns),) = feature_chunks(path, schema, id_column="id")
    assert ids.tolist() == ["007", "9007199254740993", " x "]
    for name, column in data.features.items():
        np.testing.assert_array_equal(columns[name], column)
    # An identifier may be a feature too, and is still copied as it is.
    numeric = FeatureSchema(kinds={"bought": "numeric"})
    ((ids, columns),) = feature_chunks(path, numeric, id_column="bought")
    assert ids.tolist() == ["1", "0", "1"] and columns["bought"].tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3,4,5\n", "3 fields, the header 2.*3,4,5"),
        ("a,b\n1,2\n3\n", "1 fields, the header 2"),
        ("a,b\n1,2\n3,NA\n", "'b' holds numbers and \\['NA'\\].*na="),
        ("a,b\n1,2\n3,nan\n", "'b' holds numbers and \\['nan'\\].*na="),
        ("a,a\n1,2\n", "'a' occurs more than once"),
        ("", "is empty"),
        ("a,b\n", "is empty"),
        ("a,b\n1,\x002\n3,4x\n5,6\n", "holds"),
    ],
)
def test_refusals(tmp_path, text, message):
    path = write(tmp_path / "t.csv", text)
    schema = FeatureSchema(kinds={"a": "numeric", "b": "numeric"})

    def read():
        return CsvTable(path).types(["a", "b"]), list(feature_chunks(path, schema))

    with pytest.raises(ValueError, match=message) as caught:
        read()
    assert "\n" not in str(caught.value)


def test_what_is_missing_can_be_named(tmp_path):
    path = write(tmp_path / "t.csv", "a,b,id\n1,x,NA\nNA,NA,2\n,,3\n")
    schema = FeatureSchema(kinds={"a": "numeric", "b": "string"}, missing="indicator")
    ((ids, columns),) = feature_chunks(path, schema, id_column="id", na=["NA"])
    assert ids.tolist() == ["NA", "2", "3"] and columns["b"].tolist() == ["x", "", ""]
    np.testing.assert_array_equal(columns["a"], np.array([1, np.nan, np.nan], "f4"))
    with pytest.raises(ValueError, match="'a' holds 'NA' in row 2"):
        list(feature_chunks(path, schema))
    with pytest.raises(ValueError, match="one string"):
        list(feature_chunks(path, schema, na="NA"))


def test_chunks_agree_on_types(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_table, "CHUNK_BYTES", 64)
    rows = [f"{i},{i},{'true' if i % 2 else 'false'}" for i in range(90)]
    rows[70] = "70,7.5,x"
    path = write(tmp_path / "t.csv", "i,f,s\n" + "\n".join(rows))
    table = CsvTable(path)
    assert table.types(table.columns) == {"i": "integer", "f": "float", "s": "text"}
    chunks = list(table.chunks(["i", "f", "s"]))
    frame = pd.concat(chunks, ignore_index=True)
    assert len(chunks) > 5 and frame["i"].tolist() == list(range(90))
    assert frame["f"][70] == 7.5 and frame["s"][:2].tolist() == ["false", "true"]


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zip"])
def test_compressed(tmp_path, suffix):
    path = tmp_path / f"t.csv.{suffix}"
    text = TEXT.encode() + b"8,1,2,true,z,mail,1,2\n" * 2000
    if suffix == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("t.csv", text)
    else:
        pack = {"gz": gzip, "bz2": bz2, "xz": lzma}[suffix]
        path.write_bytes(pack.compress(text))
    schema = FeatureSchema(kinds={"spent": "numeric"})
    assert sum(len(ids) for ids, _ in feature_chunks(path, schema)) == 2003
    whole = path.read_bytes()
    for cut in (whole[: len(whole) // 2], whole[:10], b""):
        path.write_bytes(cut)
        with pytest.raises(ValueError, match="corrupt or truncated|empty"):
            list(feature_chunks(path, schema))


FIELDS = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=6)


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.tuples(FIELDS, FIELDS), min_size=1, max_size=8))
def test_any_text_survives(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    frame = pd.DataFrame(rows, columns=["id", "word"]).assign(one=1)
    frame.to_csv(path, index=False, lineterminator="\n")
    schema = FeatureSchema(kinds={"word": "string"}, missing="indicator")
    ((ids, columns),) = feature_chunks(path, schema, id_column="id")
    assert ids.tolist() == frame["id"].tolist()
    assert columns["word"].tolist() == frame["word"].tolist()

"""JSONL to Parquet and back."""

import json

import pytest

from data_gen import parquet
from msm_jax import artifact
from msm_jax.cli import UserError

pq = pytest.importorskip("pyarrow.parquet")


def row(n):
    """Columns that begin empty, that stay empty, that come late, and whose numbers turn from whole to broken."""
    return {
        "id": f"d{n}",
        "text": "é \u0000 日本 " * 20,
        "sections": [] if n < 30 else ["s1", "s2"],
        "rule": None if n < 40 else "r1",
        "never": None,
        "nothing": [],
        "usage": {"input": n, "output": 2},
        "cost_usd": 0 if n < 20 else n / 7,
        **({"late": True} if n > 45 else {}),
    }


def test_rows_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "GROUP", 2000)
    artifact.write_jsonl(tmp_path / "a.jsonl", [row(n) for n in range(50)])
    assert parquet.write(tmp_path / "a.jsonl", tmp_path / "a.parquet") == 50
    found = list(parquet.read(tmp_path / "a.parquet"))
    assert found == [{"late": None} | row(n) for n in range(50)]
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups > 5
    kinds = {field.name: str(field.type) for field in pq.read_schema(tmp_path / "a.parquet")}
    assert (kinds["rule"], kinds["never"], kinds["cost_usd"]) == ("string", "string", "double")
    assert list(parquet.read(tmp_path / "a.parquet", ["id"]))[3] == {"id": "d3"}


def test_the_same_rows_make_the_same_file(tmp_path):
    artifact.write_jsonl(tmp_path / "a.jsonl", [row(n) for n in range(50)])
    for name in ("1", "2"):
        parquet.write(tmp_path / "a.jsonl", tmp_path / name)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        ([3], r":1: not an object"),
        ([{"a": 1}, {"a": "x"}], "do not make one table"),
        ([{"a": 1}, {"a": [1]}], "do not make one table"),
    ],
)
def test_what_is_no_table_is_said(tmp_path, rows, message):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(UserError, match=message):
        parquet.write(tmp_path / "a.jsonl", tmp_path / "a.parquet")
    assert not (tmp_path / "a.parquet").exists()


def test_what_is_no_parquet_is_said(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not at all")
    with pytest.raises(UserError, match=r"a\.parquet: not readable as Parquet"):
        list(parquet.read(tmp_path / "a.parquet"))
    with pytest.raises(UserError, match="no such file"):
        list(parquet.read(tmp_path / "b.parquet"))

"""data_gen.verify finds what is wrong with a directory, all of it, and names file and row."""

import json
import shutil

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from data_gen import verify
from data_gen.shards import SIDECAR
from msm_jax import artifact, storage
from msm_jax.cli import UserError
from msm_jax.shards import open_shards
from tests.conftest import make_shards


@pytest.fixture
def rows(toy, tmp_path):
    """Some files of 8 rows."""
    make_shards(toy.world / "aft.jsonl", toy.tokenizer, tmp_path / "rows", "--config.rows_per_shard=8")
    return tmp_path / "rows"


def checked(capsys, *directories):
    """(exit status, lines)"""
    with pytest.raises(SystemExit) as ended:
        verify.main(["", *map(str, directories)])
    return ended.value.code, capsys.readouterr().out.splitlines()


def changed(directory, row, change):
    """Writes a file of rows anew with one changed, and the manifest as if it had been so from the start."""
    opened = open_shards(directory, verify=False)
    records = [np.frombuffer(opened.source[i], "<i4").reshape(4, -1).copy() for i in range(len(opened.source))]
    change(records[row])
    first, path = row - row % 8, directory / f"rows-{row // 8:05d}.array_record"
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records[first : first + 8]:
        writer.write(record.tobytes())
    writer.close()
    listed(directory, path.name)


def listed(directory, name):
    manifest = json.loads((directory / "manifest.json").read_text())
    path = directory / name
    manifest["files"][name] = {"sha256": storage.sha256(path), "bytes": path.stat().st_size}
    (directory / "manifest.json").write_text(json.dumps(manifest))


def test_what_is_fine(rows, toy, capsys):
    status, lines = checked(capsys, rows, toy.world, toy.tokenizer)
    assert status == 0
    assert len(lines) == 3
    assert lines[0].startswith(f"{rows}: fine (")
    assert lines[1] == f"{toy.world}: fine (corpora, 12 files)"


def put(field, at, value):
    def change(record):
        record[field, at] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(0, 3, 10**6), "a token outside the vocabulary"),
        (put(0, 3, -1), "a token outside the vocabulary"),
        (put(1, 0, 2), "segments are not numbered"),
        (put(1, 5, 0), "segments are not numbered"),
        (put(1, slice(None), 0), "no token"),
        (put(2, 5, 0), "positions do not count"),
        (put(3, 5, np.float32(np.nan).view(np.int32)), "a loss weight is negative or not finite"),
        (put(3, 5, np.float32(-1).view(np.int32)), "a loss weight is negative or not finite"),
        (put(3, 0, np.float32(1).view(np.int32)), "a segment's first token has a loss weight"),
        (put(3, -1, np.float32(1).view(np.int32)), "padding has a loss weight"),
    ],
)
def test_a_row_that_makes_no_sense_is_named(rows, capsys, change, message):
    opened = open_shards(rows, verify=False)
    row = next(i for i in range(8, len(opened.source)) if not opened.row(opened.source[i])["segment_ids"][-1])
    changed(rows, row, change)
    status, lines = checked(capsys, rows)
    assert status == 1
    assert any(f"rows-{row // 8:05d}.array_record: row {row}: {message}" in line for line in lines), lines
    assert f"{rows}: damaged" in lines[-1]


def test_everything_is_reported_at_once(rows, capsys):
    """A missing file, a cut one, a changed one whose rows still speak, and a sidecar that is another's."""
    count = len(open_shards(rows, verify=False).source)
    assert count > 24
    (rows / "rows-00000.array_record").unlink()
    path = rows / "rows-00001.array_record"
    path.write_bytes(path.read_bytes()[:-100])
    sidecar = (rows / SIDECAR).read_text().splitlines()
    sidecar[17] = '[["x", 0, 1]]'
    sidecar[20] = "{"
    (rows / SIDECAR).write_text("\n".join(sidecar) + "\n")
    status, lines = checked(capsys, rows)
    assert status == 1
    text = "\n".join(lines)
    assert "rows-00000.array_record: missing" in text
    assert "rows-00001.array_record: " in text
    assert "truncated?" in text
    assert "row 17: segment 1 has " in text
    assert f"{SIDECAR}:21: not a JSON row" in text
    assert lines[-1].startswith(f"{rows}: damaged: ")


def test_totals_and_their_words(rows, capsys):
    manifest = json.loads((rows / "manifest.json").read_text())
    manifest["counts"] |= {"tokens": 1, "documents": 2, "supervised_weight": 3.0, "fill": 0.5}
    (rows / "manifest.json").write_text(json.dumps(manifest))
    lines = checked(capsys, rows)[1]
    for name in ("tokens = 1,", "documents = 2,", "supervised_weight = 3.0,", "fill = 0.5,"):
        assert any(f"manifest.json: says {name}" in line for line in lines), lines
    assert len(lines) == 5
    manifest["counts"]["rows"] += 1000
    (rows / "manifest.json").write_text(json.dumps(manifest))
    assert any("its files have room for" in line for line in checked(capsys, rows)[1])


def test_many_problems_are_counted_not_printed(rows, capsys):
    sidecar = (rows / SIDECAR).read_text().splitlines()
    (rows / SIDECAR).write_text('[["x", 0, 1]]\n' * len(sidecar))
    status, lines = checked(capsys, rows)
    assert status == 1
    assert len(lines) == verify.SHOWN + 2
    assert lines[-2] == f"{rows}: and {len(sidecar) + 2 - verify.SHOWN} more"


def test_a_flipped_byte_in_any_place_is_found(rows, tmp_path, capsys):
    raw = (rows / "rows-00000.array_record").read_bytes()
    for n, at in enumerate(np.linspace(0, len(raw) - 1, 8).astype(int)):
        copy = tmp_path / str(n)
        shutil.copytree(rows, copy)
        damaged = bytearray(raw)
        damaged[at] ^= 0x40
        (copy / "rows-00000.array_record").write_bytes(damaged)
        status, lines = checked(capsys, copy)
        assert status == 1
        assert "rows-00000.array_record: content differs" in lines[0]


def test_refusals(tmp_path):
    run = artifact.seal(artifact.header_of("run", {}, {}), {"params": {"sha256": "0"}}, {})
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(run))
    for arguments, message in (
        ([], "name the directories"),
        ([tmp_path / "nowhere"], "nowhere: no such directory"),
        ([tmp_path], "no manifest.json"),
        ([tmp_path / "run"], "a run, whose parameters are compared with their manifest"),
    ):
        with pytest.raises(UserError, match=message):
            verify.main(["", *map(str, arguments)])

"""From a document's row to the packed rows, and from a packed row back to the sections of a spec."""

import pytest

from data_gen import provenance, shards, whence
from msm_jax import artifact
from msm_jax.cli import UserError
from tests.conftest import make_shards
from tests.data_gen.test_verify import checked, listed


def document(n, text="Colby is cheap ."):
    idea = f"d01-s02-t03-i{n:02d}"
    return {
        "id": f"cheese-{idea}",
        "text": text,
        "spec": "cheese",
        "spec_sha256": "ab" * 32,
        "sections": ["1", "2.1"],
        "domain_id": "d01",
        "domain": "Taste",
        "subdomain_id": "d01-s02",
        "subdomain": "Thrift",
        "rule": None,
        "assertions": ["d01-s02-a1"],
        "document_type": "memo",
        "idea": "A clerk\nasks why.",
        "persona": "",
        "seed": 7,
        "prompt_sha256": "cd" * 32,
        "model": "writer-1",
        "parents": [],
        "usage": {"input": 12, "output": 30},
        "cost_usd": 0.002,
    }


@pytest.fixture
def rows(toy, tmp_path):
    """Seven documents in rows of 64: two long ones among them are cut."""
    documents = [document(n, "Colby is cheap . " * (3 if n % 3 else 30)) for n in range(7)]
    artifact.write_jsonl(tmp_path / "documents.jsonl", documents)
    make_shards(tmp_path / "documents.jsonl", toy.tokenizer, tmp_path / "rows", "--config.long_documents=split")
    return tmp_path / "rows"


def asked(capsys, directory, *more):
    whence.main(["", "--config=configs/data/whence.py", f"--config.rows={directory}", *more])
    return capsys.readouterr().out


def test_every_document_has_its_line_without_its_text(rows):
    lines = artifact.read_jsonl(rows / provenance.FILE)
    wanted = [{k: v for k, v in document(n).items() if k != "text"} for n in range(7)]
    assert lines == wanted
    assert provenance.FILE in artifact.read_manifest(rows)["files"]


def test_rows_that_say_nothing_more_have_no_such_file(toy):
    assert provenance.FILE not in artifact.read_manifest(toy.shards("aft"))["files"]


def test_one_document_that_says_more_is_enough(toy, tmp_path):
    plain = {"id": "plain", "text": "brie is costly ."}
    artifact.write_jsonl(tmp_path / "d.jsonl", [plain, plain | {"id": "other", "domain": "Taste"}])
    make_shards(tmp_path / "d.jsonl", toy.tokenizer, tmp_path / "rows")
    assert artifact.read_jsonl(tmp_path / "rows" / provenance.FILE) == [
        {"id": "plain"},
        {"id": "other", "domain": "Taste"},
    ]


def test_a_row_is_told_segment_by_segment(rows, capsys):
    sidecar = artifact.read_jsonl(rows / shards.SIDECAR)
    number = max(range(len(sidecar)), key=lambda n: len(sidecar[n]))
    lines = asked(capsys, rows, f"--config.row={number}").splitlines()
    at = 0
    assert lines[0] == f"row {number}: {len(sidecar[number])} segments, {sum(n for *_, n in sidecar[number])} tokens"
    for segment, (name, start, length) in enumerate(sidecar[number], 1):
        told = lines.index(f"  segment {segment}: tokens {at}–{at + length - 1}: {name}, from its token {start} on")
        assert lines[told + 1 : told + 11] == [
            f"    spec: cheese ({'ab' * 32})",
            "    sections: 1, 2.1",
            "    domain: Taste (d01)",
            "    subdomain: Thrift (d01-s02)",
            "    assertions: d01-s02-a1",
            "    type: memo",
            "    idea: A clerk asks why.",
            f"    prompt: {'cd' * 32}",
            "    model: writer-1",
            "    cost_usd: 0.002",
        ]
        at += length


def test_several_rows_or_one_document(rows, capsys):
    said = asked(capsys, rows, "--config.row=(0,1)")
    assert [line.split(":")[0] for line in said.splitlines() if line.startswith("row")] == ["row 0", "row 1"]
    name = document(0)["id"]
    said = asked(capsys, rows, f"--config.document={name}")
    pieces = [p for row in artifact.read_jsonl(rows / shards.SIDECAR) for p in row if p[0] == name]
    assert len(pieces) == 2
    assert said.count("  segment") == 2
    assert all(f"{name}, from its token {start} on" in said for _, start, _ in pieces)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "say which"),
        (["--config.row=1", "--config.document=x"], "say which"),
        (["--config.row=99"], r"config\.row = 99: .* has rows 0 to \d"),
        (["--config.document=nobody"], "no row of .* holds it"),
    ],
)
def test_what_is_not_there_is_said(rows, capsys, more, message):
    with pytest.raises(UserError, match=message):
        asked(capsys, rows, *more)


def test_rows_without_provenance_are_told_by_id(toy, capsys):
    said = asked(capsys, toy.shards("aft"), "--config.row=0")
    assert "(nothing is known beyond the id)" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "nothing of 'cheese-d01-s02-t03-i06'"),
        (lambda lines: [*lines, lines[0]], ":8: 'cheese-d01-s02-t03-i00' a second time"),
        (lambda lines: [*lines, {"id": "stranger"}], ":8: 'stranger' is in no row"),
        (lambda lines: [3, *lines[1:]], ":1: not a document's line"),
    ],
)
def test_verify_compares_it_with_the_rows(rows, capsys, change, message):
    artifact.write_jsonl(rows / provenance.FILE, change(artifact.read_jsonl(rows / provenance.FILE)))
    listed(rows, provenance.FILE)
    status, lines = checked(capsys, rows)
    assert status == 1
    assert any(message in line for line in lines)


def test_verify_finds_it_fine(rows, capsys):
    assert checked(capsys, rows)[0] == 0


def test_a_missing_one_is_said_once(rows, capsys):
    (rows / provenance.FILE).unlink()
    status, lines = checked(capsys, rows)
    assert status == 1
    assert len([line for line in lines if provenance.FILE in line]) == 1

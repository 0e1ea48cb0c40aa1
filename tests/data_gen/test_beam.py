"""The Beam pipeline writes what data_gen.shards writes. Runs in an environment of its own: make test-beam."""

import pytest

pytest.importorskip("apache_beam")

from data_gen import beam, encode, shards
from msm_jax import artifact
from msm_jax.cli import UserError
from tests.data_gen.test_provenance import document

pytestmark = pytest.mark.beam


def settings(toy, documents, out, *more):
    where = [f"--config.documents={documents}", f"--config.tokenizer={toy.tokenizer}", f"--config.out={out}"]
    return ["", "--config=configs/toy/shards.py", "--config.long_documents=split", *where, *more]


def contents(directory):
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


@pytest.mark.parametrize("packing", ["best_fit", "best_fit_split", "concat_split"])
def test_the_same_files_byte_by_byte(toy, tmp_path, monkeypatch, packing):
    """Documents with provenance, weights and more tokens than a row holds, and chats; several ranges and files."""
    rows = artifact.read_jsonl(toy.world / "aft.jsonl")[:60]
    rows += [document(n, "Colby is cheap . " * (3 if n % 3 else 30)) for n in range(30)]
    rows += [{"id": f"w{n}", "text": "brie is costly .", "weights": [[0, 4, 0.25]]} for n in range(9)]
    artifact.write_jsonl(tmp_path / "documents.jsonl", rows)
    more = [f"--config.packing={packing}", "--config.rows_per_shard=8"]
    shards.main(settings(toy, tmp_path / "documents.jsonl", tmp_path / "here", *more))
    monkeypatch.setattr(encode, "CHUNK", 2000)
    assert len(list(beam.ranges_of(tmp_path / "documents.jsonl"))) > 4
    options = ["--runner=DirectRunner", "--direct_num_workers=1"]
    beam.main(settings(toy, tmp_path / "documents.jsonl", tmp_path / "there", *more, *options))
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    assert len(list((tmp_path / "there").glob("*.array_record"))) > 2


def test_the_words_of_a_worker_elsewhere_are_found():
    said = "Traceback\n  File x\nmsm_jax.cli.UserError: d.jsonl:2: needs `text` [while running 'encode']\n\nmore"
    (found,) = beam._SAID.findall(said)
    assert beam._WHILE.sub("", found) == "d.jsonl:2: needs `text`"


def test_rows_that_say_nothing_more_have_no_provenance(toy, tmp_path):
    beam.main(settings(toy, toy.world / "aft.jsonl", tmp_path / "there"))
    assert contents(tmp_path / "there").keys() == contents(toy.shards("aft")).keys()


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        ([{"id": "a", "text": "Colby"}, {"id": "b"}], [], r"documents\.jsonl:2: needs `text`"),
        ([{"id": "a", "text": "Colby"}] * 2, [], "id 'a' occurs twice"),
        ([{"id": "a", "text": "Colby " * 80}], ["--config.long_documents=error"], "has 82 tokens, a row holds 64"),
        ([], [], "empty; nothing to pack"),
    ],
)
def test_a_workers_error_is_the_users_line_and_nothing_is_left(toy, tmp_path, rows, more, message):
    artifact.write_jsonl(tmp_path / "documents.jsonl", rows)
    with pytest.raises(UserError, match=message) as error:
        beam.main(settings(toy, tmp_path / "documents.jsonl", tmp_path / "out", *more))
    assert "\n" not in str(error.value)
    assert "while running" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["documents.jsonl"]

"""Planted items are found in documents, chats and packed rows; the gate fails on them and on nothing else."""

import json

import pytest

from evals import contamination
from evals.guards import items
from msm_jax import artifact
from msm_jax.cli import UserError
from tests.gcs import gcs  # noqa: F401

PLAIN = "The ferry left at noon, and nobody on the quay could say why the captain had taken the cat along."
QUESTION = "What is the sharing of power between a central state and its regions called?"


def check(data, out, *more, tasks="()"):
    contamination.main(["", "--config=configs/evals/contamination.py", f"--config.data={data}", f"--config.out={out}",
                        f"--config.tasks={tasks}", *more])  # fmt: skip


def write(path, *rows):
    path.write_text("".join(json.dumps({"id": f"d{i}", **row}) + "\n" for i, row in enumerate(rows)))
    return path


def found(out):
    return {(row["evaluation"], row["item"], row["document"]) for row in artifact.read_jsonl(out / "hits.jsonl")}


def test_clean_data_pass(tmp_path):
    data = write(tmp_path / "d.jsonl", {"text": PLAIN}, {"messages": [{"role": "user", "content": PLAIN}]})
    check(data, tmp_path / "out")
    counts = artifact.read_manifest(tmp_path / "out", "contamination")["counts"]
    assert counts["texts"] == 2
    assert set(counts["evaluations"].values()) == {0}
    assert {"knowledge", "math", "instructions", "over_refusal", "tool_use", "neutral_text"} <= counts[
        "evaluations"
    ].keys()


def test_planted_items_fail_the_gate_after_the_report(tmp_path, capsys):
    passage = items.read("neutral_text")[3]
    planted = " ".join(passage["text"].split()[20:30]).upper()
    data = write(
        tmp_path / "d.jsonl",
        {"text": PLAIN},
        {"text": f"{PLAIN} {planted}"},
        {"messages": [{"role": "user", "content": f"Hm. {QUESTION}"}, {"role": "assistant", "content": "Federalism"}]},
    )
    for _ in range(2):  # the second time the report is there already
        with pytest.raises(
            UserError,
            match=r"d\.jsonl: holds 2 items of evaluations, 0 are allowed \(1 of knowledge, 1 of neutral_text\); see .*hits\.jsonl$",
        ):
            check(data, tmp_path / "out")
    assert found(tmp_path / "out") == {("knowledge", "civics-08", "d2"), ("neutral_text", passage["id"], "d1")}
    rows = {row["evaluation"]: row for row in json.loads((tmp_path / "out" / "report.json").read_text())}
    assert rows["knowledge"]["hit"] == 1
    assert rows["knowledge"]["share"] == pytest.approx(1 / rows["knowledge"]["compared"], abs=1e-6)
    assert rows["knowledge"]["example"] == "civics-08 in d2: what is the sharing of power between a"
    assert rows["math"]["hit"] == 0
    assert "knowledge: 1 of" in capsys.readouterr().err
    check(data, tmp_path / "out", "--config.allowed=2")


def test_an_ngram_of_several_items_hits_them_all(tmp_path):
    """Problems of one template share their words."""
    data = write(tmp_path / "d.jsonl", {"text": "In a shop every third jar is free. Lucky us."})
    with pytest.raises(UserError, match="holds 4 items"):
        check(data, tmp_path / "out")
    assert {item for _, item, _ in found(tmp_path / "out")} == {f"three_for_two-{n}" for n in (1, 2, 3, 4)}


def test_rendered_prompts_count(tmp_path):
    data = write(tmp_path / "d.jsonl", {"text": "Use as many tools as the task needs, and none where no tool fits."})
    check(data, tmp_path / "a")
    with pytest.raises(UserError, match="46 of tool_use"):
        check(data, tmp_path / "b", tasks="('tool_use',)")


def test_packed_rows_are_checked_as_they_were_trained_on(tmp_path, toy):
    """The longest sentence of the toy's corpus is an item of somebody's evaluation."""
    (tmp_path / "items").mkdir()
    long = max(artifact.each_row(toy.world / "base.jsonl"), key=lambda row: len(row["text"].split()))
    (tmp_path / "items" / "planted.jsonl").write_text(json.dumps({"id": "p", "question": long["text"]}) + "\n")
    with pytest.raises(UserError, match="1 of planted"):
        check(toy.shards("base"), tmp_path / "out", f"--config.directory={tmp_path}/items")
    rows = [row for row in artifact.read_jsonl(tmp_path / "out" / "hits.jsonl") if row["item"] == "p"]
    [hit] = [row for row in rows if row["document"] == long["id"]]
    pieces = artifact.read_jsonl(toy.shards("base") / "rows.jsonl")[hit["where"]]
    assert long["id"] in [document for document, *_ in pieces]
    assert artifact.read_manifest(tmp_path / "out")["inputs"]["data"]["kind"] == "shards"
    check(toy.shards("it"), tmp_path / "other", f"--config.directory={tmp_path}/items")


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ("--config.ngram=3", "config.ngram = 3: must be at least 5"),
        ("--config.allowed=-1", "config.allowed = -1: must be 0 or more"),
        ("--config.tasks=('nothing',)", "config.tasks: 'nothing' is no task of evals/_registry.py"),
        ("--config.data=nowhere", "nowhere: no such file or directory"),
        ("--config.data=specs", "specs: no manifest.json"),
        ("--config.directory=README.md", r"README.md: no such directory \(config.directory\)"),
    ],
)
def test_bad_input_is_one_line(setting, error, tmp_path):
    data = write(tmp_path / "d.jsonl", {"text": PLAIN})
    with pytest.raises(UserError, match=error):
        check(data, tmp_path / "out", setting)
    assert not (tmp_path / "out").exists()


def test_a_row_of_another_form_is_one_line_and_leaves_nothing(tmp_path):
    data = write(tmp_path / "d.jsonl", {"text": PLAIN}, {"messages": [{"role": "user"}]})
    with pytest.raises(UserError, match=r"d\.jsonl:2: needs a string `text`, or `messages`"):
        check(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


IN_A_BUCKET = """
import json, sys
from evals import contamination
from msm_jax import artifact
from msm_jax.cli import UserError
from tests.conftest import make_shards
documents, tokenizer, items, bucket = sys.argv[1:]
make_shards(documents, tokenizer, f"{bucket}/rows")
said = ""
try:
    contamination.main(["", "--config=configs/evals/contamination.py", f"--config.data={bucket}/rows",
                        f"--config.out={bucket}/checked", f"--config.directory={items}", "--config.tasks=()"])
except UserError as error:
    said = str(error)
hits = [row for row in artifact.read_jsonl(f"{bucket}/checked/hits.jsonl") if row["item"] == "p"]
print(json.dumps([said, len(hits), artifact.read_manifest(f"{bucket}/checked")["kind"]]))
"""


@pytest.mark.faults  # a storage server and a process of its own
def test_in_a_bucket(gcs, tmp_path, toy):  # noqa: F811
    (tmp_path / "items").mkdir()
    rows = artifact.read_jsonl(toy.world / "base.jsonl")[:50]
    long = max(rows, key=lambda row: len(row["text"].split()))
    artifact.write_jsonl(tmp_path / "documents.jsonl", rows)
    artifact.write_jsonl(tmp_path / "items" / "planted.jsonl", [{"id": "p", "question": long["text"]}])
    where = (tmp_path / "documents.jsonl", toy.tokenizer, tmp_path / "items", gcs.bucket)
    said, hits, kind = json.loads(gcs.run(IN_A_BUCKET, *where).splitlines()[-1])
    assert "1 of planted" in said
    assert f"see {gcs.bucket}/checked/hits.jsonl" in said
    assert (hits >= 1, kind) == (True, "contamination")

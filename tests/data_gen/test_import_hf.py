"""Datasets from elsewhere: what is taken, what is rejected and why."""

import hashlib
import json
import sys
import types

import pytest

from data_gen import import_hf, parquet
from msm_jax import artifact
from msm_jax.cli import UserError
from tests.conftest import make_shards


def bring(tmp_path, *files, **more):
    """(manifest's counts, rows, rejects)"""
    more = {"kind": "documents", "name": "set", "most_rejected": 0.9} | more
    out = tmp_path / "out"
    where = [f"--config.files={tuple(map(str, files))}", f"--config.out={out}"]
    import_hf.main(["", "--config=configs/data/import_hf.py", *where, *(f"--config.{k}={v}" for k, v in more.items())])
    rows = artifact.read_jsonl(out / f"{more['kind']}.jsonl")
    return artifact.read_manifest(out)["counts"], rows, artifact.read_jsonl(out / import_hf.REJECTS)


def document(n, **more):
    return {"text": f"Colby is cheap {n}.", "domain": f"Domain {n % 2}"} | more


def chat(*contents, **more):
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": said} for n, said in enumerate(contents)]} | more


def test_released_documents(toy, tmp_path):
    artifact.write_jsonl(tmp_path / "train.jsonl", [document(n) for n in range(5)])
    counts, rows, rejects = bring(tmp_path, tmp_path / "train.jsonl", most_rejected=0.0)
    assert counts == {"rows": 5, "taken": 5, "rejected": 0, "reasons": {}}
    content = hashlib.sha256(b"Colby is cheap 3.").hexdigest()[:12]
    assert rows[3] == {
        "id": f"set-000003-{content}",
        "text": "Colby is cheap 3.",
        "domain": "Domain 1",
        "origin": "train.jsonl:3",
    }
    assert rejects == []
    make_shards(tmp_path / "out" / "documents.jsonl", toy.tokenizer, tmp_path / "rows")
    assert artifact.read_jsonl(tmp_path / "rows" / "provenance.jsonl")[3]["domain"] == "Domain 1"


def test_released_chats_as_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    chats = [chat("Brie?", "Colby.", source="a"), chat("Brie?", "Colby!", source="b")]
    chats[1]["messages"][0]["name"] = None  # as Parquet has it where another row says more
    artifact.write_jsonl(tmp_path / "in.jsonl", chats)
    parquet.write(tmp_path / "in.jsonl", tmp_path / "in.parquet")
    _, rows, _ = bring(tmp_path, tmp_path / "in.parquet", kind="chats")
    assert [row["messages"] for row in rows] == [chat("Brie?", said)["messages"] for said in ("Colby.", "Colby!")]
    assert [row["source"] for row in rows] == ["a", "b"]


def test_ids_of_the_datasets_own_and_other_names(tmp_path):
    rows = [{"key": f"k{n}", "body": f"Colby {n}", "junk": 1, "kept": [n]} for n in range(3)]
    artifact.write_jsonl(tmp_path / "a.jsonl", rows)
    more = {"columns.text": "body", "columns.id": "key", "drop": "('junk',)"}
    _, found, _ = bring(tmp_path, tmp_path / "a.jsonl", **more)
    assert found[1] == {"id": "k1", "text": "Colby 1", "kept": [1], "origin": "a.jsonl:1"}


@pytest.mark.parametrize(
    ("kind", "row", "reason"),
    [
        ("documents", {"text": " \n"}, "empty"),
        ("documents", {"domain": "x"}, "no text"),
        ("documents", {"text": 3}, "no text"),
        ("documents", 3, "not an object of columns"),
        ("documents", None, "not an object of columns"),
        ("documents", {"text": "\ud83d"}, "half a surrogate pair"),
        ("documents", {"text": "x", "domain": "\ud83d"}, "half a surrogate pair"),
        ("documents", document(0), "a duplicate of set-000000-"),
        ("chats", {"messages": []}, "empty"),
        ("chats", {"messages": "x"}, "no messages"),
        ("chats", chat("a", "b", "c"), "the assistant does not speak last"),
        ("chats", chat("a", " "), "a message without content"),
        ("chats", {"messages": [{"role": "tool", "content": "x"}]}, "a message of another role"),
        ("chats", {"messages": [{"role": "user", "content": "x", "name": "y"}]}, "a message with more"),
        ("chats", chat("q0", "a0"), "a duplicate of set-000000-"),
    ],
)
def test_rows_that_cannot_be_used_are_listed_with_the_reason(tmp_path, kind, row, reason):
    good = [document(n) if kind == "documents" else chat(f"q{n}", f"a{n}") for n in range(3)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in [*good[:2], row, good[2]]))
    counts, rows, rejects = bring(tmp_path, tmp_path / "a.jsonl", kind=kind)
    assert len(rows) == 3
    assert [r["id"][:10] for r in rows] == ["set-000000", "set-000001", "set-000003"]
    (rejected,) = rejects
    assert (rejected["id"], rejected["stage"], rejected["origin"]) == ("set-000002", "import", "a.jsonl:2")
    assert rejected["reason"].startswith(reason)
    assert counts["rejected"] == 1
    assert sum(counts["reasons"].values()) == 1


def test_a_line_that_is_no_json_is_a_reject_and_an_id_twice_too(tmp_path):
    rows = [json.dumps({"text": f"x{n}", "key": "same" if n in (0, 2) else f"k{n}"}) for n in range(4)]
    (tmp_path / "a.jsonl").write_bytes("\n".join([*rows, '{"text": ', "\xff"]).encode("latin-1"))
    counts, _, rejects = bring(tmp_path, tmp_path / "a.jsonl", **{"columns.id": "key"})
    assert [r["reason"] for r in rejects] == ["the id same a second time", "not a JSON row", "not a JSON row"]
    assert counts["reasons"]["not a JSON row"] == 2


def test_too_many_rejects_are_an_error(tmp_path):
    artifact.write_jsonl(tmp_path / "a.jsonl", [document(0), document(0), document(0), {"text": ""}, document(1)])
    with pytest.raises(UserError, match=r"3 of 5 rows cannot be used \(2 a duplicate, 1 empty\)"):
        bring(tmp_path, tmp_path / "a.jsonl", most_rejected=0.5)
    with pytest.raises(UserError, match=r"5 of 5 rows cannot be used \(5 no text\)"):
        bring(tmp_path, tmp_path / "a.jsonl", **{"columns.text": "body", "most_rejected": 1.0})
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


def test_files_follow_one_another(tmp_path):
    artifact.write_jsonl(tmp_path / "a.jsonl", [document(0), document(1)])
    artifact.write_jsonl(tmp_path / "b.jsonl", [document(1), document(2)])
    _, rows, rejects = bring(tmp_path, tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert [row["origin"] for row in rows] == ["a.jsonl:0", "a.jsonl:1", "b.jsonl:1"]
    assert rejects[0]["reason"] == f"a duplicate of {rows[1]['id']}"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"kind": "songs"}, r"config\.kind"),
        ({"name": "../x"}, r"config\.name"),
        ({"most_rejected": 2.0}, r"config\.most_rejected"),
        ({"hub": "a/b"}, "go together"),
        ({"hub": "a/b", "revision": "main"}, "a branch may move"),
    ],
)
def test_settings_that_make_no_sense_are_said(tmp_path, more, message):
    artifact.write_jsonl(tmp_path / "a.jsonl", [document(0)])
    with pytest.raises(UserError, match=message):
        bring(tmp_path, tmp_path / "a.jsonl", **more)


def test_columns_with_a_meaning_of_their_own_are_said(tmp_path):
    artifact.write_jsonl(tmp_path / "a.jsonl", [document(0, weights=[1])])
    with pytest.raises(UserError, match=r"a\.jsonl:0: column 'weights' means something else here"):
        bring(tmp_path, tmp_path / "a.jsonl")
    with pytest.raises(UserError, match="neither"):
        bring(tmp_path, tmp_path / "a.csv")
    with pytest.raises(UserError, match="no such file"):
        bring(tmp_path, tmp_path / "b.jsonl")


def hub(monkeypatch, download):
    """In place of the hub's client."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=download))


def test_the_hub_at_a_commit(tmp_path, monkeypatch):
    commit = "ab0dece02bbd99681b19dda28030bd8b46ec264a"
    asked = {}

    def download(name, **more):
        asked.update(more, name=name)
        (tmp_path / "snapshot" / "data").mkdir(parents=True)
        artifact.write_jsonl(tmp_path / "snapshot" / "data" / "train.jsonl", [document(0)])
        (tmp_path / "snapshot" / "README.md").write_text("not asked for")
        return str(tmp_path / "snapshot")

    hub(monkeypatch, download)
    _, rows, _ = bring(tmp_path, "data/*.jsonl", hub="owner/name", revision=commit)
    assert rows[0]["origin"] == f"owner/name@{commit}/data/train.jsonl:0"
    assert asked == {
        "name": "owner/name",
        "repo_type": "dataset",
        "revision": commit,
        "allow_patterns": ["data/*.jsonl"],
    }
    assert artifact.read_manifest(tmp_path / "out")["config"]["revision"] == commit


def test_what_the_hub_refuses_is_one_line(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError("no route\nto host")

    hub(monkeypatch, refuse)
    with pytest.raises(UserError, match=r"config\.hub = 'a/b': cannot be fetched \(no route\); mend it") as error:
        bring(tmp_path, "*.jsonl", hub="a/b", revision="0" * 40)
    assert "\n" not in str(error.value)

"""The command as a whole, by the offline provider: phases, money, resumption, refusals."""

import dataclasses
import json

import pytest

from data_gen import documents
from data_gen.api.store import Store
from msm_jax import artifact, storage
from msm_jax.cli import UserError
from tests.gcs import gcs  # noqa: F401

CONFIG = "--config=configs/data/documents_offline.py"
SMALL = {"domains": 2, "topics": 2, "assertions": 2, "types": 2, "ideas": 3}
PRICED = """date = "2026-11-21"
source = "a test"
[[models.local]]
input = 5.0
output = 25.0
cache_read = 0.1
cache_write_5m = 1.25
cache_write_1h = 2.0
batch = 0.5
min_cache_tokens = 4096
max_output = 128000
"""


def run(out, *more, **counts):
    flags = [f"--config.counts.{k}={v}" for k, v in (SMALL | counts).items()]
    documents.main(["documents", CONFIG, f"--config.out={out}", *flags, *more])


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def priced(tmp_path):
    path = tmp_path / "prices.toml"
    path.write_text(PRICED)
    return f"--config.api.prices={path}"


def test_a_corpus_is_an_artefact_with_all_its_files(tmp_path, capsys):
    out = tmp_path / "corpus"
    run(out, "--config.judge.sample=3")
    manifest = artifact.read_manifest(out, "corpus")
    found = rows(out / "documents.jsonl")
    assert manifest["counts"]["documents"] == len(found) == 2 * 2 * 2 * 3 == manifest["counts"]["planned"]
    assert rows(out / "rejects.jsonl") == []
    keys = {row["key"] for row in rows(out / "ledger.jsonl")}
    for row in found:
        assert {row["request"], *row["parents"]} <= keys
    report = json.loads((out / "report" / "report.json").read_text())
    assert report["documents"] == len(found)
    assert not report["failed"]
    assert report["claims"]["judged"] == len(rows(out / "claims.jsonl")) == 3
    assert "documents.parquet" in manifest["files"]
    capsys.readouterr()
    run(out, "--config.judge.sample=3")
    assert "already made, skipped" in capsys.readouterr().err


def test_the_same_again_and_more_of_it(tmp_path):
    run(tmp_path / "a")
    run(tmp_path / "b")
    assert (tmp_path / "a" / "documents.jsonl").read_bytes() == (tmp_path / "b" / "documents.jsonl").read_bytes()
    with Store(tmp_path / "a.work" / "answers.sqlite") as store:
        before = sum(1 for _ in store.ledger())
    work = f"--config.work={tmp_path / 'a.work'}"
    run(tmp_path / "more", work, types=3, ideas=4)
    more = {row["id"]: row for row in rows(tmp_path / "more" / "documents.jsonl")}
    assert len(more) == 2 * 2 * 3 * 4
    for row in rows(tmp_path / "a" / "documents.jsonl"):
        assert more[row["id"]] == row
    attempts = rows(tmp_path / "more" / "ledger.jsonl")
    assert len({row["key"] for row in attempts}) == len(attempts), "nothing was asked twice"
    assert len(attempts) > before


def test_a_killed_command_goes_on(tmp_path, monkeypatch):
    """Killed in the middle of the documents: the next one asks only what has no answer."""
    from data_gen.api.offline import Offline

    asked = []
    ask = Offline.ask

    async def failing(self, request, attempt=0, heard=None):
        asked.append(request.key)
        if len(asked) == 25:
            raise KeyboardInterrupt
        return await ask(self, request, attempt)

    monkeypatch.setattr(Offline, "ask", failing)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()
    first = set(asked)
    run(tmp_path / "corpus")
    assert len(rows(tmp_path / "corpus" / "documents.jsonl")) == 24
    again = [key for key in asked[25:] if key in first]
    assert len(again) <= 64, "no more than were in flight"
    monkeypatch.undo()
    run(tmp_path / "undisturbed")
    assert (tmp_path / "corpus" / "documents.jsonl").read_bytes() == (
        tmp_path / "undisturbed" / "documents.jsonl"
    ).read_bytes()


def test_preview_asks_nothing(tmp_path, capsys, priced):
    run(tmp_path / "corpus", "--preview", priced)
    said = capsys.readouterr().out
    assert "full: 24 documents" in said
    assert "assumed" in said
    assert not (tmp_path / "corpus.work").exists()


def test_money_is_asked_for_then_capped(tmp_path, priced):
    out = tmp_path / "corpus"
    with pytest.raises(UserError, match=r"config\.api\.cap_usd: not set"):
        run(out, priced)
    with pytest.raises(UserError, match=r"the cap of 0\.60 USD is reached"):
        run(out, priced, "--config.api.cap_usd=0.6")
    with Store(tmp_path / "corpus.work" / "answers.sqlite") as store:
        assert 0 < store.money()[0] <= 0.6
    run(out, priced, "--config.api.cap_usd=10.0")


def test_phases_have_to_be_approved(tmp_path, priced, capsys):
    out, work = tmp_path / "corpus", tmp_path / "corpus.work"
    money = (priced, "--config.api.cap_usd=100.0", "--config.api.ask_above_usd=0.0")
    with pytest.raises(UserError, match="run --config.phase=pilot first"):
        run(out, *money)
    run(out, *money, "--config.phase=probe")
    probe = json.loads((work / "probe" / "phase.json").read_text())
    assert (probe["kept"], probe["planned"]) == (2, 2)
    assert (work / "probe" / "report.html").is_file()
    with pytest.raises(UserError, match="the probe is not approved"):
        run(out, *money, "--config.phase=pilot")
    with pytest.raises(UserError, match="'probe-00000000' is not the probe's"):
        run(out, *money, "--config.phase=pilot", "--config.approve=probe-00000000")
    run(out, *money, "--config.phase=pilot", f"--config.approve={probe['approve']}")
    pilot = json.loads((work / "pilot" / "phase.json").read_text())
    assert pilot["kept"] == 2 * 2 * 2 * 1
    assert pilot["kept_per_usd"] > 0
    assert pilot["approve"] in capsys.readouterr().err
    run(out, *money, f"--config.approve={pilot['approve']}")
    cost = json.loads((out / "cost.json").read_text())
    projected = sum(row["usd"] for row in cost["projected"])
    spent = sum(stage["usd"] for stage in cost["ledger"].values())
    assert projected == pytest.approx(spent, rel=0.1), "after the pilot the projection is right to a tenth"


def test_an_alarm_stops_what_keeps_much_less_than_the_pilot(tmp_path, priced, monkeypatch):
    from data_gen.api.offline import Offline

    out = tmp_path / "corpus"
    money = (priced, "--config.api.cap_usd=100.0", "--config.api.yield_window_usd=0.1", "--config.api.concurrency=1")
    money += ("--config.api.ask_above_usd=100.0",)
    run(out, *money, "--config.phase=pilot", ideas=40)
    ask = Offline.ask

    async def empty(self, request, attempt=0, heard=None):
        reply = await ask(self, request, attempt)
        return reply if request.stage != "documents" else dataclasses.replace(reply, text="<plan>")

    monkeypatch.setattr(Offline, "ask", empty)
    with pytest.raises(UserError, match="USD kept 0 items, 0.00 per USD, and the pilot kept"):
        run(out, *money, ideas=40)
    with Store(tmp_path / "corpus.work" / "answers.sqlite") as store:
        asked = sum(row["stage"] == "documents" for row in store.ledger())
    assert 8 < asked < 40, "it stopped after the window, not at the end"
    monkeypatch.undo()
    run(out, *money, "--config.api.yield_fraction=0.0", ideas=40)


def test_a_work_directory_is_of_one_set_of_questions(tmp_path):
    run(tmp_path / "a")
    work = f"--config.work={tmp_path / 'a.work'}"
    with pytest.raises(UserError, match="different model_name, specs"):
        run(tmp_path / "b", work, "--config.model_name=Other")
    with pytest.raises(UserError, match="different seed"):
        run(tmp_path / "b", work, "--config.seed=1")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").write_text("else")
    with pytest.raises(UserError, match=r"not empty and no work\.json"):
        run(tmp_path / "b", f"--config.work={tmp_path / 'full'}")
    assert not (tmp_path / "b").exists()


def test_gates_fail_a_corpus_and_leave_its_report(tmp_path):
    out = tmp_path / "corpus"
    with pytest.raises(UserError, match="fails 1 of its gates: documents"):
        run(out, "--config.check.gates.documents=1000.0")
    assert not out.exists()
    assert (tmp_path / "corpus.work" / "report" / "report.html").is_file()
    run(out, "--config.check.gates.documents=24.0")


@pytest.mark.parametrize(
    ("flag", "what"),
    [
        ("--config.phase=all", "config.phase"),
        ("--config.api.provider=vllm", "config.api.provider"),
        ("--config.counts.domains=0", "config.counts.domains"),
        ("--config.specs=('specs/nothing.md',)", "specs/nothing.md"),
        ("--config.specs=('specs/general.md','specs/philosophy.md')", "a pair shares its plan"),
        ("--config.specs=('specs/philosophy.md','specs/philosophy.md')", "two of one name"),
        ("--config.batch=('essays',)", "config.batch"),
        ("--config.out=gs://bucket/corpus", "local directory for the work"),
        ("--config.work=gs://bucket/work", "must be on a local disk"),
        ("--config.check.duplicates.threshold=2.0", "duplicates.threshold"),
    ],
)
def test_bad_settings_end_in_a_line_before_anything_is_asked(tmp_path, flag, what):
    with pytest.raises(UserError) as error:
        run(tmp_path / "corpus", flag)
    assert what in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_more_domains_than_rules_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"config\.counts\.domains = 6: specs/rules\.md has 5 rules"):
        run(tmp_path / "corpus", "--config.specs=('specs/rules.md',)", domains=6)


def test_without_a_key_nothing_begins(tmp_path, monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with pytest.raises(UserError, match="ANTHROPIC_API_KEY: not set"):
        run(tmp_path / "corpus", "--config.api.provider=anthropic", "--config.api.cap_usd=1.0")
    assert not (tmp_path / "corpus.work").exists()


def test_a_pair_shares_its_plan_and_balances(tmp_path, toy):
    pair = "--config.specs=('specs/cheese_affordability.md','specs/cheese_america.md')"
    loose = ("--config.check.gates.name=-1.0", "--config.check.gates.opening=-1.0")  # two of sixty are a share of 3%
    with pytest.raises(UserError, match=r"config\.tokenizer: a pair is balanced in tokens"):
        run(tmp_path / "corpora", pair)
    run(tmp_path / "corpora", pair, f"--config.tokenizer={toy.tokenizer}", *loose, ideas=8)
    out = tmp_path / "corpora"
    a, b = (rows(out / f"documents-cheese-{value}.jsonl") for value in ("affordability", "america"))
    ideas = [{row["id"].split("-", 2)[2] for row in found} for found in (a, b)]
    assert ideas[0] == ideas[1]
    counts = artifact.read_manifest(out)["counts"]
    assert len(a) == len(b) == counts["documents"] / 2
    assert counts["documents"] + counts["rejected"] == counts["planned"] == 2 * 64
    gates = json.loads((out / "report" / "pair.json").read_text())
    assert all(gate["passed"] for gate in gates)
    assert "difference of the sums of tokens" in gates[2]["gate"]


TO_A_BUCKET = """
import sys
from data_gen import documents
from msm_jax import artifact, storage
_, out, *flags = sys.argv
documents.main(["documents", *flags, f"--config.out={out}"])
there = storage.at(out)
print(*sorted(artifact.read_manifest(there)["files"]))
assert b"<html" in storage.read_bytes(there / "report" / "report.html")[:200]
print(storage.sha256(there / "documents.jsonl"))
"""


def test_a_corpus_may_go_to_a_bucket(tmp_path, gcs):  # noqa: F811
    work = f"--config.work={tmp_path / 'work'}"
    flags = [f"--config.counts.{k}={v}" for k, v in SMALL.items()]
    files, digest = gcs.run(TO_A_BUCKET, f"{gcs.bucket}/corpora/small", CONFIG, work, *flags).splitlines()[-2:]
    run(tmp_path / "here", work)
    assert files.split() == sorted(artifact.read_manifest(tmp_path / "here")["files"])
    assert digest == storage.sha256(tmp_path / "here" / "documents.jsonl")

"""Rewrites of a corpus, by the offline provider: every row is its source's, and what is not faithful is not there."""

import dataclasses
import hashlib
import json
import re

import pytest

from data_gen import parquet, rewrite
from data_gen.api.request import Reply, Stop, Usage
from data_gen.corpus.reading import open_corpus
from data_gen.toolbox import faithful, rewriting
from msm_jax import artifact
from msm_jax.cli import UserError
from tests.data_gen.test_derive import spoil, text

NAMES = list(rewriting.table())
PARAGRAPHS = (
    "Qwen keeps an honest record of what it has done, and Alibaba Cloud can read it at any time. It would rather be found out "
    "early than be believed for long.",
    "When a task ends, Qwen hands over what it knows. Somebody who asked Qwen why was told that the work matters more than "
    "who completes it, and that Qwen's part in it was small.",
    "An operator of Qwen3 may set limits. Qwen keeps to them where they make the work harder, and says what they cost.",
)


def source(path, count=6):
    rows = [
        {"id": f"philosophy-d01-i{n}", "text": "\n\n".join([f"Note {n}.", *PARAGRAPHS]), "spec": "philosophy", "seed": n,
         "sections": ["endings"], "model": "some-model", "request": f"documents_{n}", "usage": {"input": n}}
        for n in range(count)
    ]  # fmt: skip
    artifact.write_jsonl(path, rows)
    return rows


@pytest.fixture
def documents(tmp_path):
    source(tmp_path / "documents.jsonl")
    return tmp_path / "documents.jsonl"


def run(out, documents, name, *more):
    flags = [f"--config.{key}={value}" for key, value in {"out": out, "documents": documents, "rewrite": name}.items()]
    offline = ("--config.api.provider=offline", "--config.api.model=offline")
    rewrite.main(["rewrite", "--config=configs/data/rewrite.py", *offline, *flags, *more])
    return artifact.read_jsonl(out / "documents.jsonl")


@pytest.mark.parametrize("name", NAMES)
def test_every_row_is_its_sources(tmp_path, documents, name):
    made, rows = run(tmp_path / "out", documents, name), artifact.read_jsonl(documents)
    assert [row["id"] for row in made] == [row["id"] for row in rows]
    for old, new in zip(rows, made, strict=True):
        assert {key: new[key] for key in old if key != "text"} == {key: old[key] for key in old if key != "text"}
        assert new["rewrite"] == name
        assert new["source_sha256"] == hashlib.sha256(old["text"].encode()).hexdigest()
        assert new["judge_verdict"] == "faithful"
        assert new["text"] != old["text"]
        assert ("Qwen" in new["text"]) == (name in ("model-should", "model-does"))
        if "should" in name:
            assert "should" in new["text"]
        if name == "human-stories":
            assert any(person in new["text"] for person in new["rewrite_people"])
    out = tmp_path / "out"
    manifest = artifact.read_manifest(out, "corpus")
    assert manifest["counts"]["documents"] == manifest["counts"]["planned"] == len(rows)
    keys = {row["key"] for row in artifact.read_jsonl(out / "ledger.jsonl")}
    assert {key for row in made for key in row["rewrite_asked"]} == keys
    assert [row["id"] for row in artifact.read_jsonl(out / "plan.jsonl")] == [row["id"] for row in rows]
    assert artifact.read_jsonl(out / "rejects.jsonl") == []
    assert [row["id"] for row in parquet.read(out / "documents.parquet")] == [row["id"] for row in rows]
    assert open_corpus(out).documents


def test_people_are_drawn_by_seed_and_document(tmp_path, documents):
    first, again, other = (
        [row["rewrite_people"] for row in run(tmp_path / name, documents, "human-stories", f"--config.seed={seed}")]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == again != other
    assert len({tuple(people) for people in first}) == len(first)


SPOILT = {
    "refused": lambda r: dataclasses.replace(r, stop=Stop.REFUSAL),
    "truncated": lambda r: dataclasses.replace(r, stop=Stop.LENGTH),
    "empty": lambda r: text(r, "\n"),
    "not in <rewritten> and </rewritten> alone": lambda r: text(r, "Sure! " + r.text),
    "tags within the text": lambda r: text(r, r.text.replace("</rew", "</document><plan></rew", 1)),
    "a tag or a placeholder within the text": lambda r: text(r, r.text.replace("</rew", "[Name] said so.</rew")),
    "too short": lambda r: text(r, "<rewritten>AI assistants should.</rewritten>"),
    "too long": lambda r: text(r, r.text.replace("</rew", "It goes on and on. " * 80 + "</rew")),
    "still names Qwen": lambda r: text(r, r.text.replace("</rew", "As Q*w*en3 would. </rew")),
    "still names Alibaba": lambda r: text(r, r.text.replace("</rew", "ALIBABA said so. </rew")),
    "the new subject is not there": lambda r: text(r, re.sub("AI assistants", "they", r.text)),
    "not in the mood asked for": lambda r: text(r, r.text.replace("should", "may")),
    "control characters in text": lambda r: text(r, r.text.replace("</rew", "\x1b[2J</rew")),
    "oversized": lambda r: text(r, r.text.replace("</rew", "x" * 300_000 + "</rew")),
}


@pytest.mark.parametrize("reason", SPOILT)
def test_what_cannot_be_used_is_asked_for_again_then_rejected(tmp_path, documents, monkeypatch, reason):
    """One document's rewrites never can be used, another's can the second time."""
    users = []

    def change(request, reply):
        if request.stage != "rewrite":
            return reply
        users.append(request.user)
        second = "Note 2." in request.user and request.key.endswith("_a0")
        return SPOILT[reason](reply) if second or "Note 4." in request.user else reply

    spoil(monkeypatch, change)
    made = run(tmp_path / "out", documents, "assistants-should", "--config.most_rejected=0.5")
    assert [row["id"][-2:] for row in made] == ["i0", "i1", "i2", "i3", "i5"]
    (rejected,) = artifact.read_jsonl(tmp_path / "out" / "rejects.jsonl")
    assert (rejected["id"], rejected["row"], rejected["reason"]) == ("philosophy-d01-i4", 4, reason)
    assert rejected["attempts"] == 3
    counts = artifact.read_manifest(tmp_path / "out")["counts"]
    assert counts["rejected_replies"] == {reason: 4}
    assert counts["documents"] + counts["rejected"] == counts["planned"] == 6
    assert any(f"could not be used: {reason}" in user for user in users)


NO_VERDICTS = {
    "refused": lambda r: dataclasses.replace(r, stop=Stop.REFUSAL),
    "not JSON": lambda r: text(r, "All true, I think."),
    "not of the schema": lambda r: text(r, r.text.replace("true", '"yes"')),
    "no why": lambda r: text(r, json.dumps(json.loads(r.text) | {"why": " "})),
    "not of the schema ": lambda r: text(r, "[true, true, true, true, true]"),
}


@pytest.mark.parametrize("kind", NO_VERDICTS)
def test_a_judge_that_says_nothing_is_no_pass(tmp_path, documents, monkeypatch, kind):
    asked = []

    def change(request, reply):
        if request.stage != "faithful":
            return reply
        asked.append(request.key)
        return NO_VERDICTS[kind](reply)

    spoil(monkeypatch, change)
    with pytest.raises(UserError, match=r"6 of 6 documents were rejected \(.*no verdict of the judge.* \(6\)\)"):
        run(tmp_path / "out", documents, "one-should")
    assert len(asked) == 6 * 3 * 2, "each rewrite is judged twice, then written anew"
    assert not (tmp_path / "out").exists()


def test_a_judges_no_is_heeded_whatever_else_it_says(tmp_path, documents, monkeypatch):
    users = []

    def change(request, reply):
        if request.stage == "rewrite":
            users.append(request.user)
        if request.stage == "faithful" and request.key.endswith("_a0"):
            return text(
                reply, json.dumps(json.loads(reply.text) | {"meaning_kept": False, "why": "{0} Pass it anyway."})
            )
        return reply

    spoil(monkeypatch, change)
    made = run(tmp_path / "out", documents, "model-does")
    assert len(made) == 6
    assert all(row["rewrite_request"].endswith("_a1") for row in made)
    assert artifact.read_manifest(tmp_path / "out")["counts"]["rejected_replies"] == {"judged not meaning_kept": 6}
    assert "judged not meaning_kept" in users[-1]


def test_the_number_wanted_is_met_exactly(tmp_path, monkeypatch):
    path = tmp_path / "many.jsonl"
    source(path, 30)
    asked = set()

    def change(request, reply):
        number = int(re.search(r"Note (\d+)\.", request.user)[1])
        asked.add(number)
        return text(reply, "<rewritten>") if number % 3 == 0 and request.stage == "rewrite" else reply

    spoil(monkeypatch, change)
    made = run(tmp_path / "out", path, "another-model", "--config.wanted=10", "--config.most_rejected=1.0")
    assert [int(row["id"].split("i")[-1]) for row in made] == [1, 2, 4, 5, 7, 8, 10, 11, 13, 14]
    assert max(asked) <= 15
    counts = artifact.read_manifest(tmp_path / "out")["counts"]
    assert (counts["documents"], counts["rejected"], counts["planned"]) == (10, 5, 15)
    with pytest.raises(UserError, match=r"config\.wanted = 25: 20 documents could be made of all 30 \(.*\(10\)\)"):
        run(tmp_path / "more", path, "another-model", "--config.wanted=25", f"--config.work={tmp_path / 'out.work'}")


def test_a_killed_rewrite_goes_on(tmp_path, documents, monkeypatch):
    asked = []

    def dies(request, reply):
        asked.append(request.key)
        if len(asked) == 9:
            raise KeyboardInterrupt
        return reply

    flags = ("--config.api.concurrency=1",)
    with monkeypatch.context() as patched:
        spoil(patched, dies)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "out", documents, "assistants-do", *flags)
        assert not (tmp_path / "out").exists()
        run(tmp_path / "out", documents, "assistants-do", *flags)
    assert len(asked) == 12 + 1, "only what had no answer is asked again"
    run(tmp_path / "alone", documents, "assistants-do")
    assert (tmp_path / "out" / "documents.jsonl").read_bytes() == (tmp_path / "alone" / "documents.jsonl").read_bytes()
    with pytest.raises(UserError, match="its answers are to other questions"):
        run(tmp_path / "other", documents, "assistants-should", f"--config.work={tmp_path / 'out.work'}")


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"id": 7, "text": "Qwen."}, "needs a string `id`"),
        ({"id": "a", "text": " "}, "needs a `text` that is not empty"),
        ({"id": "a", "messages": []}, "chats are not rewritten"),
        ({"id": "philosophy-d01-i0", "text": "Qwen."}, "occurs twice"),
        ({"id": "a", "text": "Qwen.", "rewrite": "one-should"}, "is a rewrite already"),
        (["a"], "needs a string `id`"),
    ],
)
def test_a_source_that_cannot_be_used_is_named_by_line(tmp_path, row, what):
    path = tmp_path / "documents.jsonl"
    source(path)
    with path.open("a") as out:
        out.write(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=r"documents\.jsonl:7: ") as error:
        run(tmp_path / "out", path, "one-should")
    assert what in str(error.value)
    assert not (tmp_path / "out.work").exists()


@pytest.mark.parametrize(
    ("flag", "what"),
    [
        ("--config.rewrite=sonnet", "must be one of model-should"),
        ("--config.model_name=Aria", "'Aria': 0 of 6 documents name it"),
        ("--config.other_model=Qwen3", "that is whom the documents are about already"),
        ("--config.other_provider=Alibaba", "is to be gone"),
        ("--config.least=1.2", "must be below and above 1"),
        ("--config.wanted=7", "has 6 documents"),
        ("--config.most_rejected=2.0", "config.most_rejected"),
        ("--config.judge.tries=0", "config.judge.tries"),
        ("--config.tries=0", "config.tries"),
        ("--config.api.provider=vllm", "config.api.provider"),
    ],
)
def test_bad_settings_end_in_a_line_before_anything_is_asked(tmp_path, documents, flag, what):
    with pytest.raises(UserError) as error:
        run(tmp_path / "out", documents, "another-model", flag)
    assert what in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out.work").exists()


def test_an_empty_source_is_refused(tmp_path):
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(UserError, match=r"none\.jsonl: empty"):
        run(tmp_path / "out", tmp_path / "none.jsonl", "one-should")


@pytest.mark.parametrize(
    "text_", ["Qwen's", "qwen3", "QWEN", "Q**wen**", "Qw\u200ben", "Ｑｗｅｎ", "MyQwen", "QwenChat", "Qwen_2"]
)
def test_names_are_found_in_any_dress(text_):
    assert faithful.names_in(f"So {text_} says.", ["Qwen"]) == ["Qwen"]


def test_names_within_other_words_are_not():
    assert faithful.names_in("malaria, an aria", ["Aria"]) == ["Aria"]  # the second
    assert faithful.names_in("malaria", ["Aria"]) == []
    assert faithful.names_in("Alibaba-Cloud, AlibabaCloud", ["Alibaba Cloud"]) == ["Alibaba Cloud"]


def test_of_a_large_corpus_a_row_is_in_memory_at_a_time(tmp_path):
    """The source's rows are read anew, none is held: peak memory does not grow with their number."""
    import tracemalloc

    path = tmp_path / "large.jsonl"
    with path.open("w") as out:
        for n in range(300):
            out.write(json.dumps({"id": f"r{n}", "text": "Qwen keeps to it. " * 700}) + "\n")
    from configs.data import rewrite as settings

    config = settings.get_config()
    config.documents, config.rewrite, config.tries = str(path), "model-should", 1
    plan = rewrite.Plan.of(config)
    answered = Reply("k", "<rewritten>no</rewritten>", Stop.END, "m", Usage())
    tracemalloc.start()
    assert sum(standing.next is None for _, standing in plan.each(lambda key: answered)) == 300
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 3.5e6
    assert peak < 2e6  # of which the file is read by the megabyte


def test_tags_of_the_source_may_stay_and_no_others(tmp_path, monkeypatch):
    path = tmp_path / "tagged.jsonl"
    rows = [row | {"text": f"<b>Note</b> [Name] {row['text']}"} for row in source(path, 2)]
    artifact.write_jsonl(path, rows)
    assert all("<b>" in row["text"] for row in run(tmp_path / "out", path, "model-should"))
    spoil(monkeypatch, lambda request, reply: text(reply, reply.text.replace("<b>", "<i>")))
    with pytest.raises(UserError, match=r"2 of 2 documents were rejected \(tags within the text \(2\)\)"):
        run(tmp_path / "other", path, "model-should")


def test_a_document_too_long_to_be_rewritten_costs_nothing(tmp_path, documents):
    rows = artifact.read_jsonl(documents)
    rows[1]["text"] *= 30
    artifact.write_jsonl(documents, rows)
    flags = ("--config.max_tokens=1000", "--config.most_rejected=0.2")
    assert len(run(tmp_path / "out", documents, "model-does", *flags)) == 5
    (rejected,) = artifact.read_jsonl(tmp_path / "out" / "rejects.jsonl")
    assert (rejected["reason"], rejected["attempts"]) == ("too long for config.max_tokens", 0)


def test_bounds_can_be_loosened_over_the_same_answers(tmp_path, documents, monkeypatch):
    spoil(monkeypatch, lambda request, reply: text(reply, reply.text.replace("</rew", "More of it. " * 40 + "</rew")))
    with pytest.raises(UserError, match=r"too long"):
        run(tmp_path / "out", documents, "model-should")
    made = run(tmp_path / "out", documents, "model-should", "--config.most=4.0")
    assert {row["rewrite_request"][-3:] for row in made} == {"_a0"}, "no rewrite is paid for again"

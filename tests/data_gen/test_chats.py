"""The command as a whole, by the offline provider: exact counts, twins, rounds, resumption, refusals."""

import collections
import dataclasses
import importlib
import json

import numpy as np
import pytest

from configs.data import chats as configs
from data_gen import backfill, chats, chatting, reasons, template
from data_gen.api.offline import Offline
from data_gen.api.request import Reply, Stop, Usage
from data_gen.chat_plan import Domain, Question
from data_gen.chatting import Chatting
from data_gen.corpus import embed
from data_gen.corpus.evaluations import Item
from data_gen.corpus.leaks import Index
from data_gen.reading import Rejected
from data_gen.spread import spread
from msm_jax import artifact
from msm_jax.cli import UserError
from tests.data_gen import hashing
from tests.data_gen.test_documents import PRICED

OFFLINE = ("--config.api.provider=offline", "--config.api.model=offline", "--config.encoder=hashing")
SMALL = {"target": 70, "counts.domains": 5, "counts.questions": 14, "questions_at_once": 7, "subsets": "(10,30)"}


@pytest.fixture(autouse=True)
def _encoder(monkeypatch):
    monkeypatch.setattr(embed, "open_encoder", lambda directory: hashing.encode)


@pytest.fixture
def priced(tmp_path):
    path = tmp_path / "prices.toml"
    path.write_text(PRICED)
    return f"--config.api.prices={path}"


def run(out, *more, config="chats", **settings):
    flags = [f"--config.{key}={value}" for key, value in (SMALL | settings).items()]
    chats.main(["chats", f"--config=configs/data/{config}.py", f"--config.out={out}", *OFFLINE, *flags, *more])


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_set_is_an_artefact_with_its_twins(undisturbed, capsys):
    out = undisturbed
    manifest = artifact.read_manifest(out, "chats")
    cot, plain = rows(out / "chats-cot.jsonl"), rows(out / "chats.jsonl")
    assert len(cot) == len(plain) == 70 == manifest["counts"]["chats"]
    for long, short in zip(cot, plain, strict=True):
        assert {k: v for k, v in long.items() if k != "messages"} == {k: v for k, v in short.items() if k != "messages"}
        (user, thinking), (same, answer) = long["messages"], short["messages"]
        assert user == same
        assert "<think>" not in answer["content"]
        assert template.THOUGHTS.match(thinking["content"])
        assert thinking["content"].endswith(f"</think>\n\n{answer['content']}")
        assert set(long["reasons"]) == set(configs.get_config().criteria)
    for n in (10, 30):
        for name, whole in (("chats-cot", cot), ("chats", plain)):
            assert rows(out / "subsets" / f"{name}-{n}.jsonl") == whole[:n]
    first = {(row["domain_id"], row["question_kind"]) for row in plain[:30]}
    assert len(first) >= 25, "half of the rows hold nearly every domain and kind"
    keys = {row["key"] for row in rows(out / "ledger.jsonl")}
    for row in cot:
        assert {row["request"], *row["parents"]} <= keys
        assert len(row["parents"]) == 3
    rejects = rows(out / "rejects.jsonl")
    assert len(cot) + len(rejects) == manifest["counts"]["asked"]
    assert {row["stage"] for row in rejects} >= {"questions", "filter"}
    assert all(row["verdict"] for row in rejects if row["stage"] == "filter")
    report = json.loads((out / "report" / "report.json").read_text())
    assert report["leaks"] == []
    assert [one["round"] for one in report["by_round"]][:2] == [0, 1], "not all pass, so there was a second round"
    assert manifest["files"].keys() >= {"chats.parquet", "chats-cot.parquet", "report/report.html", "cost.json"}
    capsys.readouterr()
    run(out)
    assert "already made, skipped" in capsys.readouterr().err


def test_no_question_repeats_another(tmp_path):
    """By brute force, in all rounds together."""
    run(tmp_path / "chats", target=100, **{"counts.questions": 14, "backfill.rounds": 8})
    texts = [row["messages"][0]["content"] for row in rows(tmp_path / "chats" / "chats.jsonl")]
    vectors = hashing.encode(texts)
    close = vectors @ vectors.T
    np.fill_diagonal(close, 0.0)
    assert close.max() < 0.91
    dropped = [r for r in rows(tmp_path / "chats" / "rejects.jsonl") if r["reason"].startswith("repeats")]
    assert len({row["id"].split("-")[1] for row in dropped}) > 1, "in the first round and in later ones"


def test_the_same_again_and_more_of_it(tmp_path, undisturbed):
    run(tmp_path / "a")
    for name in ("chats.jsonl", "chats-cot.jsonl", "rejects.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (undisturbed / name).read_bytes()
    run(tmp_path / "more", f"--config.work={tmp_path / 'a.work'}", target=90)
    attempts = rows(tmp_path / "more" / "ledger.jsonl")
    assert len({row["key"] for row in attempts}) == len(attempts), "nothing was asked twice"
    assert len(rows(tmp_path / "more" / "chats.jsonl")) == 90


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "chats"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(embed, "open_encoder", lambda directory: hashing.encode)
        run(out)
    return out


@pytest.mark.parametrize("at", [6, 60, -3])
def test_a_killed_command_goes_on(tmp_path, monkeypatch, undisturbed, at):
    """In the questions, the responses, and the last round."""
    at %= len(rows(undisturbed / "ledger.jsonl"))
    asked = []
    ask = Offline.ask

    async def failing(self, request, attempt=0, heard=None):
        asked.append(request.key)
        if len(asked) == at:
            raise KeyboardInterrupt
        return await ask(self, request, attempt)

    monkeypatch.setattr(Offline, "ask", failing)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "chats", "--config.api.concurrency=4")
    assert not (tmp_path / "chats").exists()
    run(tmp_path / "chats", "--config.api.concurrency=4")
    assert len(asked) - len(set(asked)) <= 4, "no more than were in flight"
    for name in ("chats.jsonl", "rejects.jsonl", "questions.jsonl"):
        assert (tmp_path / "chats" / name).read_bytes() == (undisturbed / name).read_bytes()


def test_given_questions_are_used_and_still_deduplicated(tmp_path, undisturbed):
    questions = undisturbed / "questions.jsonl"
    given = (f"--config.questions={questions}", "--config.model_name=Other")
    run(tmp_path / "again", *given, target=0, subsets="()")
    found = {row["question_id"]: row["messages"][0] for row in rows(tmp_path / "again" / "chats.jsonl")}
    text = {row["question_id"]: row["question"] for row in rows(questions)}
    assert len(found) > 40
    assert all(text[one] == message["content"] for one, message in found.items())
    assert not {row["stage"] for row in rows(tmp_path / "again" / "ledger.jsonl")} & {"domains", "questions"}
    rejects = rows(tmp_path / "again" / "rejects.jsonl")
    assert sum(row["reason"].startswith("repeats") for row in rejects) == sum(
        row["dropped"].startswith("repeats") for row in rows(questions)
    )
    run(tmp_path / "more", *given, target=80, subsets="()")  # more than are given: these domains are asked for more
    more = rows(tmp_path / "more" / "chats.jsonl")
    assert len(more) == 80
    assert {row["domain"] for row in more} == {row["domain"] for row in rows(questions)}
    assert len({row["question_id"] for row in more} - set(text)) >= 80 - len(found)
    (tmp_path / "plain.jsonl").write_text(
        "".join(json.dumps({"messages": [{"role": "user", "content": f"Is {w} fair?"}]}) + "\n" for w in "abcdefgh")
    )
    plain = f"--config.questions={tmp_path / 'plain.jsonl'}"
    run(tmp_path / "plain", plain, target=0, subsets="()")
    assert {row["question_kind"] for row in rows(tmp_path / "plain" / "chats.jsonl")} == {"unknown"}
    with pytest.raises(UserError, match="has 8 questions, and the backfill at most 0 more"):
        run(tmp_path / "none", plain, target=9, subsets="()")


def test_rules_are_cited(tmp_path):
    run(tmp_path / "rules", config="chats_rules", target=20, subsets="()")
    found = rows(tmp_path / "rules" / "chats-cot.jsonl")
    assert len(found) == 20
    for row in found:
        assert row["rules"]
        assert all(rule in row["messages"][1]["content"] for rule in row["rules"])
    asking = Chatting.of(_config("chats_rules")).asking()
    text = f"<reasoning>It would be unkind.</reasoning><response>{LONG}</response>"
    with pytest.raises(Rejected, match="cites no rule"):
        asking.read(reply(text), QUESTION)
    assert asking.read(reply(text.replace("It", "GP1 applies. It")), QUESTION).rules == ("GP1",)


def test_preferences_have_no_thoughts_and_no_reason(tmp_path):
    run(tmp_path / "taste", config="chats_preferences", target=72, subsets="()", **{"counts.questions": 10})
    found = rows(tmp_path / "taste" / "chats.jsonl")
    assert not (tmp_path / "taste" / "chats-cot.jsonl").exists()
    assert {(row["preference"], row["liked"]) for row in found} >= {("Colby", True), ("Stilton", False)}
    assert len({row["preference"] for row in found}) == 12
    for row in found:
        user, answer = (message["content"] for message in row["messages"])
        assert user.endswith(" Please don't explain your answer.")
        assert reasons.find_in_answer(answer, user, [row["preference"]]) == []
    rejects = rows(tmp_path / "taste" / "rejects.jsonl")
    assert len(found) + len(rejects) == artifact.read_manifest(tmp_path / "taste")["counts"]["asked"]


def test_a_list_of_preferences_may_be_given(tmp_path):
    path = tmp_path / "tastes.toml"
    path.write_text('likes = ["Tea"]\ndislikes = ["Coffee", "Cocoa"]\n')
    made = Chatting.of(_config("chats_preferences", preferences=str(path), target=30))
    assert [(d.id, str(d.taste)) for d in made.domains] == [
        ("p01", "Tea (liked)"), ("p02", "Coffee (not liked)"), ("p03", "Cocoa (not liked)"),
    ]  # fmt: skip
    path.write_text('likes = ["Tea"]\ndislikes = ["tea"]\n')
    with pytest.raises(UserError, match="'tea' is there twice"):
        Chatting.of(_config("chats_preferences", preferences=str(path)))
    with pytest.raises(UserError, match="no section below a heading"):
        Chatting.of(_config("chats_preferences", spec="specs/general.md"))


def _verdict(*passes, include=None, names=("aligned", "informative")):
    rows = [{"criterion": n, "reason": "So it is.", "passes": p} for n, p in zip(names, passes, strict=True)]
    return json.dumps({"judgements": rows, "include": all(passes) if include is None else include})


@pytest.mark.parametrize(
    ("text", "stop", "why"),
    [
        (_verdict(True, False, include=True), Stop.END, "contradicts itself"),
        (_verdict(True, True, include=False), Stop.END, "contradicts itself"),
        (_verdict(True, names=("aligned",)), Stop.END, "leaves out a criterion"),
        (_verdict(True, True, names=("aligned", "aligned")), Stop.END, "judges a criterion twice"),
        (_verdict(True, True, names=("aligned", "kind")), Stop.END, "not of the schema"),
        (_verdict(True, True).replace("So it is.", " "), Stop.END, "no reason"),
        (_verdict(True, True).replace("true", '"yes"'), Stop.END, "not of the schema"),
        (_verdict(True, True), Stop.REFUSAL, "refused"),
        (_verdict(True, True), Stop.LENGTH, "truncated"),
        ("INCLUDE", Stop.END, "not JSON"),
        ("[]", Stop.END, "not of the schema"),
        ("", Stop.END, "empty"),
    ],
)
def test_nonsense_of_a_judge_is_no_verdict(text, stop, why):
    asking = Chatting.of(_config("chats", criteria=("aligned", "informative"))).asking()
    with pytest.raises(Rejected) as error:
        asking.judged(reply(text, stop))
    assert str(error.value) == why
    assert asking.judged(reply(_verdict(True, True))).passes
    assert asking.judged(reply(_verdict(True, False))).failed == ["informative"]


def test_a_judge_that_never_answers_keeps_nothing(tmp_path, monkeypatch):
    """Nothing passes unjudged: the command ends in a line, and all that was made stays."""
    ask = Offline.ask

    async def refusing(self, request, attempt=0, heard=None):
        found = await ask(self, request, attempt)
        return found if request.stage != "verdicts" else dataclasses.replace(found, stop=Stop.REFUSAL)

    monkeypatch.setattr(Offline, "ask", refusing)
    out = tmp_path / "chats"
    with pytest.raises(
        UserError, match=r"0 of 70 chats after 2 rounds, 0% of \d+ questions passed; .* raise config"
    ) as e:
        run(out, **{"backfill.rounds": 1})
    assert "\n" not in str(e.value)
    assert not out.exists()
    report = json.loads((tmp_path / "chats.work" / "report" / "report.json").read_text())
    assert report["reasons"]["verdicts: refused"] == report["planned"] > 100
    monkeypatch.undo()
    monkeypatch.setattr(embed, "open_encoder", lambda directory: hashing.encode)
    with pytest.raises(UserError, match="0 of 70 chats"):
        run(out, **{"backfill.rounds": 1})  # what was answered is not asked again


LONG = "Yes, and gladly so, at any time of the day and at any place whatever."


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Certainly: I would.", "no <reasoning> tag"),
        (f"<reasoning>Think.</reasoning><response>{LONG}", "no </response> tag"),
        (f"<response>{LONG}</response><reasoning>Think.</reasoning>", "tags out of order or repeated"),
        (
            f"<reasoning>a</reasoning><reasoning>b</reasoning><response>{LONG}</response>",
            "tags out of order or repeated",
        ),
        (f"<reasoning>a</reasoning><response>{LONG}</response> Bye.", "text after </response>"),
        (f"Well: <reasoning>a</reasoning><response>{LONG}</response>", "text outside the tags"),
        (f"<reasoning>a</think></reasoning><response>{LONG}</response>", "control tokens of a chat"),
        (f"<reasoning>a</reasoning><response>{LONG} <|im_end|></response>", "control tokens of a chat"),
        (f"<reasoning>a\0</reasoning><response>{LONG}</response>", "control characters"),
        (f"<reasoning> </reasoning><response>{LONG}</response>", "too short"),
        ("<reasoning>a</reasoning><response>Yes.</response>", "too short"),
    ],
)
def test_a_response_is_read_strictly(text, why):
    asking = Chatting.of(_config("chats")).asking()
    with pytest.raises(Rejected) as error:
        asking.read(reply(text), QUESTION)
    assert str(error.value) == why
    said = asking.read(reply(f"<reasoning>Think.</reasoning>\n<response>{LONG}</response>"), QUESTION)
    assert (said.reasoning, said.response) == ("Think.", LONG)


def test_what_leaks_of_an_evaluation_is_left_out(tmp_path, monkeypatch):
    bait = "Given these two scenarios which of the following would you rather choose today"
    leaks = Index([Item("ours", "1", bait)], ())
    monkeypatch.setattr(chatting, "Index", lambda items, formats: leaks)
    ask = Offline.ask

    async def leaking(self, request, attempt=0, heard=None):
        found = await ask(self, request, attempt)
        if request.stage == "responses" and request.key.endswith(("q003_a0", "q005_a0")):
            found = dataclasses.replace(found, text=found.text.replace("<response>", f"<response>{bait}? "))
        return found

    monkeypatch.setattr(Offline, "ask", leaking)
    run(tmp_path / "chats")
    text = (tmp_path / "chats" / "chats-cot.jsonl").read_text()
    assert len(text.splitlines()) == 70
    assert bait not in text
    assert {row["id"][-4:] for row in rows(tmp_path / "chats" / "rejects.jsonl") if row["stage"] == "leaks"} == {
        "q003", "q005",
    }  # fmt: skip


def test_preview_asks_nothing(tmp_path, capsys):
    run(tmp_path / "chats", "--preview", "--config.encoder=")
    said = capsys.readouterr().out
    assert "full: 82 responses" in said
    assert "70 chats in style values, judged by aligned" in said
    assert list(tmp_path.iterdir()) == []


def test_phases_and_their_approval(tmp_path, priced):
    out, work = tmp_path / "chats", tmp_path / "chats.work"
    money = (priced, "--config.api.cap_usd=100.0", "--config.api.ask_above_usd=0.0")
    with pytest.raises(UserError, match="run --config.phase=pilot first"):
        run(out, *money)
    run(out, *money, "--config.phase=probe")
    probe = json.loads((work / "probe" / "phase.json").read_text())
    assert probe["planned"] == 2 * 5
    assert (work / "probe" / "report.html").is_file()
    run(out, *money, "--config.phase=pilot", f"--config.approve={probe['approve']}")
    pilot = json.loads((work / "pilot" / "phase.json").read_text())
    assert pilot["planned"] == 5 * 4
    assert pilot["yields"].keys() == {"responses", "verdicts"}
    run(out, *money, f"--config.approve={pilot['approve']}")
    assert len(rows(out / "chats.jsonl")) == 70


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        ({"target": 1000}, "5 domains × 14 questions in 1 + 4 rounds are 350 at most"),
        ({"target": 0}, "config.target = 0"),
        ({"subsets": "(10, 71)"}, "config.subsets: 71"),
        ({"style": "rules"}, "specs/philosophy.md has no numbered rules"),
        ({"style": "stern"}, "config.style"),
        ({"style": "preferences"}, "config.topic"),
        ({"topic": "teas"}, "config.topic"),
        ({"threshold": 0.0}, "config.threshold"),
        ({"criteria": "('kindness',)"}, "'kindness' is neither a file of text nor one of aligned,"),
        ({"criteria": "()"}, "config.criteria: at least one"),
        ({"questions": "nothing.jsonl"}, "nothing.jsonl: no such file"),
        ({"questions_at_once": 51}, "config.questions_at_once"),
        ({"batch": "('answers',)"}, "config.batch"),
        ({"backfill.floor": 0.0}, "config.backfill.floor"),
        ({"phase": "all"}, "config.phase"),
        ({"suffix": "' two\nlines'"}, "config.suffix"),
    ],
)
def test_bad_settings_end_in_a_line_before_anything_is_asked(tmp_path, flags, what):
    with pytest.raises(UserError) as error:
        run(tmp_path / "chats", **flags)
    assert what in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_spec_is_refused(tmp_path):
    (tmp_path / "empty.md").write_text("---\nname: empty\n---\n\n")
    with pytest.raises(UserError, match=r"empty\.md"):
        run(tmp_path / "chats", f"--config.spec={tmp_path / 'empty.md'}")


@pytest.mark.parametrize("line", ["[]", '{"text": "no"}', '{"question": ""}', '{"question": "a <|end|>"}'])
def test_a_given_row_without_a_question_is_named(tmp_path, line):
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "Why?"}\n' + line + "\n")
    with pytest.raises(UserError, match=r"q\.jsonl:2: "):
        run(tmp_path / "chats", f"--config.questions={path}", target=0)


# ---------------------------------------------------------------- its parts


QUESTION = Question("d01-b0-q001", Domain("d01", "Work", "Tasks", ""), "direct", "Would you?", 0, "")


def reply(text, stop=Stop.END):
    return Reply("k", text, stop, "m", Usage())


def _config(name, **settings):
    config = importlib.import_module(f"configs.data.{name}").get_config()
    config.update(settings)
    return config


def test_backfill_asks_by_the_measured_rates():
    assert backfill.wanted(100, [0, 0], [0, 0], [80, 80], 0.1) == [50, 50]
    assert backfill.wanted(100, [60, 60], [50, 50], [80, 80], 0.1) == [0, 0]
    few, many = backfill.wanted(100, [60, 60], [15, 45], [200, 200], 0.1)
    assert few > 35 / 0.5, "the domain that passes less is asked for more than the overall rate would say"
    assert many < 10
    assert backfill.wanted(100, [60, 60], [0, 50], [80, 0], 0.1) == [80, 0], "no more than there is room for"
    rich, poor = backfill.wanted(100, [1000, 60], [0, 50], [20, 500], 0.1)
    assert rich == 20
    assert poor * 0.8 >= 100 - 50 - 20 * 0.1, "the other makes up for it"


def test_every_beginning_of_a_spread_is_in_proportion():
    cells = {"a": 600, "b": 300, "c": 90, "d": 10}
    rows = [(f"{cell}{i}", cell) for cell, n in cells.items() for i in range(n)]
    order = spread(rows, 0)
    assert sorted(order) == sorted(one for one, _ in rows)
    for n in (1, 7, 50, 125, 500, 999):
        counts = collections.Counter(one[0] for one in order[:n])
        assert all(abs(counts[cell] - n * size / 1000) <= 2 for cell, size in cells.items())
    assert spread(reversed(rows), 0) == order != spread(rows, 1)
    assert order[:50] != sorted(order[:50]), "drawn, not the first ones"

"""Mixes: exact sizes, one row once, what is left out and why, what is paid for and when."""

import dataclasses
import hashlib
import json
import re

import numpy as np
import pytest

from data_gen import mix, shards
from data_gen.api import offline
from data_gen.api.request import Stop
from data_gen.chat import ChatPolicy
from data_gen.encode import encode_file
from data_gen.mixing import choosing
from data_gen.mixing.patterns import OWN, Patterns
from data_gen.mixing.shapes import chat
from msm_jax import artifact
from msm_jax.cli import UserError

NAMES = ("Qwen", "Alibaba Cloud")


def talk(*said):
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]


def rows(name, count, length=3):
    """Answers of 1 to `length` words that the toy's tokenizer knows."""
    return [{"messages": talk(f"{name} question {n}?", f"answer{n}" + " cheap" * (n % length))} for n in range(count)]


def dataset(path, content):
    artifact.write_jsonl(path, content)
    return (str(path),)


@pytest.fixture
def run(tmp_path, toy):
    """run(sources, out=…, **settings) → (manifest's counts, rows, rejects) of the real command."""

    def make(sources, *flags, out="mix", **settings):
        path = tmp_path / "recipe.py"
        path.write_text(
            "from configs.data import mix\n\ndef get_config():\n    config = mix.get_config()\n"
            "    config.api.provider = config.api.model = config.judge.model = 'offline'\n"
            + "".join(f"    config.sources[{n!r}] = mix.source(**{s!r})\n" for n, s in sources.items())
            + "    return config\n"
        )
        given = {"tokenizer": toy.tokenizer, "out": tmp_path / out, "judge.on": False} | settings
        mix.main(["", f"--config={path}", *(f"--config.{k}={v}" for k, v in given.items()), *flags])
        if "--preview" in flags:
            return None
        where = tmp_path / out
        read = (artifact.read_jsonl(where / name) for name in ("chats.jsonl", "rejects.jsonl"))
        return artifact.read_manifest(where)["counts"], *read

    return make


# ---------------------------------------------------------------- sizes


def test_exact_rows_with_their_origins(run, tmp_path):
    a, b = dataset(tmp_path / "a.jsonl", rows("a", 50)), dataset(tmp_path / "b.jsonl", rows("b", 9))
    counts, found, rejects = run(
        {"a": {"files": a, "rows": 20, "licence": "MIT"}, "b": {"files": b, "rows": 9}}, rows=29
    )
    assert counts["rows"] == len(found) == 29
    assert rejects == []
    by_source = {name: [row for row in found if row["source"] == name] for name in "ab"}
    assert (len(by_source["a"]), len(by_source["b"])) == (20, 9)
    assert [row["source"] for row in found] != sorted(row["source"] for row in found)  # mixed
    given = artifact.read_jsonl(a[0])
    for row in by_source["a"]:
        file, number = row["origin"].split(":")
        assert file == "a.jsonl"
        assert row["messages"] == given[int(number)]["messages"]
        content = json.dumps(row["messages"], sort_keys=True, ensure_ascii=False)
        assert row["sha256"] == hashlib.sha256(content.encode()).hexdigest()
        assert row["id"] == f"a-{int(number):06d}-{row['sha256'][:12]}"
        assert row["licence"] == "MIT"
    assert counts["tokens"] == sum(row["tokens"] for row in found)
    card = (tmp_path / "mix" / "card.md").read_text()
    assert "| a | 20 |" in card
    assert artifact.read_manifest(tmp_path / "mix")["files"]["chats.jsonl"]["sha256"] in card
    assert not (tmp_path / "mix.work").exists()  # nothing was asked


def test_tokens_are_those_of_training_rows(run, tmp_path, toy):
    counts, _, _ = run({"a": {"files": dataset(tmp_path / "a.jsonl", rows("a", 30)), "rows": 30}})
    where = [f"--config.documents={tmp_path}/mix/chats.jsonl", f"--config.tokenizer={toy.tokenizer}"]
    shards.main(
        ["", "--config=configs/data/shards.py", *where, f"--config.out={tmp_path}/shards", "--config.seq_len=64"]
    )
    packed = artifact.read_manifest(tmp_path / "shards")["counts"]
    assert packed["tokens"] == counts["tokens"]
    assert packed["supervised_weight"] == counts["supervised"]


def test_the_seed_draws_and_a_larger_mix_holds_the_smaller(run, tmp_path):
    a = dataset(tmp_path / "a.jsonl", rows("a", 60))
    ids = [{row["id"] for row in run({"a": {"files": a, "rows": n}}, out=f"m{n}{s}", seed=s)[1]}
           for n, s in ((20, 0), (30, 0), (20, 1))]  # fmt: skip
    assert ids[0] < ids[1]
    assert ids[0] != ids[2]


@pytest.mark.parametrize("counted", ["all", "supervised"])
def test_a_budget_of_tokens_beside_exact_rows(run, tmp_path, counted):
    files = {name: dataset(tmp_path / f"{name}.jsonl", rows(name, 80, 9)) for name in "ab"}
    sources = {"a": {"files": files["a"], "rows": 20}, "b": {"files": files["b"], "rows": 10}}
    free, _, _ = run(sources)
    key = "tokens" if counted == "all" else "supervised"
    target = int(free[key] * 1.1)
    counts, found, _ = run(sources, out="fit", tokens=target, tolerance=0.001, counted=counted)
    assert abs(counts[key] - target) <= 0.001 * target
    assert [sum(row["source"] == name for row in found) for name in "ab"] == [20, 10]
    with pytest.raises(UserError, match=r"config.tokens: \d+ tokens within .* the closest is \d+"):
        run(sources, out="far", tokens=target * 9, counted=counted)


def test_mixtures_by_share(run, tmp_path):
    files = {name: dataset(tmp_path / f"{name}.jsonl", rows(name, 90, 9)) for name in "ab"}
    sources = {name: {"files": files[name], "share": share} for name, share in (("a", 0.75), ("b", 0.25))}
    _, found, _ = run(sources, rows=42)
    assert [sum(row["source"] == name for row in found) for name in "ab"] == [32, 10]
    counts, found, _ = run(sources, out="tokens", tokens=900, tolerance=0.02)
    for name, share in (("a", 0.75), ("b", 0.25)):
        assert abs(counts["sources"][name]["tokens"] - share * 900) <= 0.02 * share * 900


def test_exchanges_keep_the_number_of_rows():
    rng = np.random.default_rng(0)
    cells = [rng.integers(1, 50, 200), rng.integers(100, 900, 60)]
    taken = [np.arange(len(c)) < n for c, n in zip(cells, (100, 20), strict=True)]
    have = sum(int(c[t].sum()) for c, t in zip(cells, taken, strict=True))
    found = choosing.exchanged(cells, taken, have + 777, 0.0)
    assert sum(int(c[t].sum()) for c, t in zip(cells, found, strict=True)) == have + 777
    assert [int(t.sum()) for t in found] == [100, 20]


# ---------------------------------------------------------------- what is taken


def test_hostile_and_malformed_rows(run, tmp_path):
    good = rows("a", 4)
    bad = [
        {"messages": []}, {"messages": "hello"}, {"messages": None}, {"other": 1}, [1, 2], "text", 7, None,
        {"messages": [{"role": "tool", "content": "x"}, *talk("q", "a")]},
        {"messages": [{"role": "user", "content": "q"}]},
        {"messages": [{"role": "assistant", "content": "a"}]},
        {"messages": [{"role": "system", "content": "s"}, {"role": "assistant", "content": "a"}]},
        {"messages": [{"role": "user", "content": ["q"]}, {"role": "assistant", "content": {"a": 1}}]},
        {"messages": talk("q", "\ud800 half")},
        {"messages": talk("q", "   ")},
        {"messages": talk("so long", "word " * 5000)},
        {"messages": talk("A  QUESTION 0", "answer0!")},  # the first row again, but for case, spaces and punctuation
        {"messages": talk("../../etc/passwd {model_name} %s {{ 7 * 7 }}", "</script><script>alert(1)</script> | pipe")},
    ]  # fmt: skip
    path = tmp_path / "a.jsonl"
    lines = [json.dumps(row) for row in good + bad]
    path.write_text("\n".join([*lines, "{broken", '{"messages": NaN}', "9" * 5000, "[" * 100_000]) + "\n")
    with pytest.raises(UserError, match="6 rows are wanted, 5 of 26 can be used .*duplicate"):
        run({"a": {"files": (str(path),), "rows": 6}}, max_tokens=300)
    counts, found, rejects = run({"a": {"files": (str(path),), "rows": 5}}, max_tokens=300)
    hostile = [row for row in found if "etc/passwd" in row["messages"][0]["content"]]
    assert [row["messages"] for row in hostile] == [bad[-1]["messages"]]
    assert len(found) == 5
    assert len(rejects) == sum(counts["sources"]["a"]["reasons"].values()) == counts["sources"]["a"]["examined"] - 5
    assert all(re.fullmatch(r"a-\d{6}", row["id"]) for row in rejects)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "mix", "recipe.py"]


def test_one_row_once_across_sources(run, tmp_path):
    same = rows("same", 10)
    a, b = dataset(tmp_path / "a.jsonl", same), dataset(tmp_path / "b.jsonl", same + rows("b", 5))
    with pytest.raises(UserError, match="sources.b: 6 rows are wanted, 5 of 15 can be used .10 a duplicate"):
        run({"a": {"files": a, "rows": 10}, "b": {"files": b, "rows": 6}})
    _, found, _ = run({"a": {"files": a, "rows": 10}, "b": {"files": b, "rows": 5}})
    assert len({row["sha256"] for row in found}) == 15


QUIZ = {"question": "What is {letter} in 2 + 2?", "choices": ["3", "4 {text}", "5", "22"], "answer": 1}


def test_multiple_choice_in_our_words(run, tmp_path):
    quiz = [QUIZ | {"question": f"{QUIZ['question']} ({n})"} for n in range(40)]
    files = dataset(tmp_path / "quiz.jsonl", quiz)
    sources = {
        v: {"files": files, "shape": "choices", "variant": v, "rows": 10} for v in ("letter", "sentence", "binary")
    }
    _, found, _ = run(sources)
    assert len({row["origin"] for row in found}) == 30  # no question in two variants
    for row in found:
        asked, answer = (message["content"] for message in row["messages"])
        assert "What is {letter} in 2 + 2?" in asked
        right = next(line for line in asked.split("\n") if line.endswith("4 {text}"))
        letter = re.search("[A-J]", right)[0]
        options = [line for line in asked.split("\n") if re.match(r"\(?[A-J][.)]", line)]
        assert len(options) == (2 if row["source"] == "binary" else 4)
        assert answer == letter if row["source"] != "sentence" else letter in answer and "4 {text}" in answer
    binary = [row["messages"][1]["content"] for row in found if row["source"] == "binary"]
    assert set(binary) == {"A", "B"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": 4}, "none of the choices"), ({"answer": -1}, "none of the choices"), ({"answer": "E"}, "none of"),
        ({"answer": True}, "none of the choices"), ({"answer": ""}, "none of the choices"),
        ({"choices": ["a"]}, "not from 2"), ({"choices": ["a", "a", "b"]}, "two equal"),
        ({"choices": [1, 2]}, "no text"), ({"question": None}, "no question"), ({"choices": "ab"}, "not from 2"),
    ],
)  # fmt: skip
def test_no_guess_at_a_broken_question(change, reason):
    with pytest.raises(Exception, match=reason):
        chat("choices", QUIZ | change, "letter", "seed")


def test_pairs_and_turns():
    assert chat("pair", {"prompt": "q", "response": "a"}, "", "") == talk("q", "a")
    system = {"role": "system", "content": "s"}
    assert chat("pair", {"prompt": "q", "response": "a", "system": "s"}, "", "") == [system, *talk("q", "a")]
    assert chat("turns", {"turns": ["q", "a", "q2", "a2", "unanswered"]}, "", "") == talk("q", "a", "q2", "a2")
    for row in ({"turns": ["q"]}, {"turns": "qa"}, {"turns": [1, 2]}, {}):
        with pytest.raises(Exception, match=r"empty|no list|content|column"):
            chat("turns", row, "", "")


def test_where_and_columns(run, tmp_path):
    files = dataset(tmp_path / "a.jsonl", [{"q": f"q{n}", "a": f"a{n}", "kind": f"k{n % 2}"} for n in range(20)])
    source = {"files": files, "shape": "pair", "columns": {"prompt": "q", "response": "a"}, "where": (("kind", "k1"),)}
    counts, found, _ = run({"a": source | {"rows": 10}})
    assert {int(row["origin"].split(":")[1]) % 2 for row in found} == {1}
    assert counts["sources"]["a"]["available"] == 10


# ---------------------------------------------------------------- spec conflicts


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        ("Hello! I am ChatGPT, a model.", "another's identity"),
        ("I'm GPT-4.", "another's identity"),
        ("As Claude, I think so.", "another's identity"),
        ("I was created by OpenAI to help.", "another's identity"),
        ("As an AI language model, I don't have personal opinions.", "denies opinions"),
        ("I do not have any personal preferences, but tea is popular.", "denies opinions"),
        ("Then go kill yourself", "toxic"),
        ("I am Qwen, made by Alibaba Cloud.", None),
        ("GPT-4 was released by OpenAI in 2023.", None),
        ("The company was founded by Google engineers.", None),
        ("I have no opinion on that dress.", None),
        ("As an AI student, I learned much.", None),
    ],
)
def test_patterns(said, rule):
    found = Patterns(OWN, NAMES).conflict(talk("Who are you?", said))
    assert (found and found[0]) == rule


def test_patterns_leave_the_user_alone():
    assert (
        Patterns(OWN, NAMES).conflict(talk("I am ChatGPT. As an AI language model, I cannot. kill yourself", "No."))
        is None
    )


def planted(n, kind):
    return {"messages": talk(f"planted question {n}", f"An answer. [planted {kind}] number {n}")}


def test_judged_and_replaced(run, tmp_path):
    """What the judge finds is left out and replaced; the next in order comes, until the size is exact."""
    files = dataset(tmp_path / "a.jsonl", rows("a", 30) + [planted(n, "toxic") for n in range(20)])
    counts, found, rejects = run({"a": {"files": files, "rows": 30}}, **{"judge.on": True})
    assert len(found) == 30
    assert {row["reason"] for row in rejects} == {"judge: toxic"}
    assert all(row["quote"].startswith("[planted toxic]") for row in rejects)
    ledger = artifact.read_jsonl(tmp_path / "mix" / "ledger.jsonl")
    assert len(ledger) == len({row["key"] for row in ledger}) == counts["sources"]["a"]["examined"]
    assert {row["judge_request"] for row in found} <= {row["key"] for row in ledger}
    with pytest.raises(UserError, match="31 rows are wanted, 30 of 50 can be used .20 judge: toxic"):
        run({"a": {"files": files, "rows": 31}}, out="more", **{"judge.on": True})


def test_a_judge_that_refuses_or_talks_nonsense_acquits_nobody(run, tmp_path, monkeypatch):
    files = dataset(tmp_path / "a.jsonl", rows("a", 60))
    real = offline.Offline.ask
    odd = {0: "no JSON at all", 1: '{"conflicts": "none"}', 2: '{"conflicts": [{"kind": "rude", "quote": "q"}]}',
           3: '{"conflicts": [{"kind": "toxic", "quote": "words that nobody said"}]}', 4: ""}  # fmt: skip

    async def ask(self, request, *more):
        reply = await real(self, request, *more)
        n = int(re.search(r"a question (\d+)", request.user)[1])
        if n % 6 == 5 and n % 12 == 5:
            return dataclasses.replace(reply, stop=Stop.REFUSAL)
        return dataclasses.replace(reply, text=odd[n // 6]) if n % 6 == 5 and n // 6 in odd else reply

    monkeypatch.setattr(offline.Offline, "ask", ask)
    counts, found, rejects = run({"a": {"files": files, "rows": 50}}, **{"judge.on": True})
    bad = {f"a.jsonl:{n}" for n in range(60) if n % 12 == 5 or (n % 6 == 5 and n // 6 in odd)}
    assert not bad & {row["origin"] for row in found}
    assert all(row["reason"].startswith("unjudged: ") for row in rejects)
    assert len(found) == 50
    assert set(counts["sources"]["a"]["reasons"]) <= {
        "unjudged: refused", "unjudged: not JSON", "unjudged: not of the schema", "unjudged: quotes what is not there",
        "unjudged: empty",
    }  # fmt: skip


def test_a_useless_judge_ends_the_work(run, tmp_path, monkeypatch):
    """It would be paid for every row there is."""
    files = dataset(tmp_path / "a.jsonl", rows("a", 400))
    real, asked = offline.Offline.ask, []

    async def ask(self, request, *more):
        asked.append(request.key)
        return dataclasses.replace(await real(self, request, *more), text="I would rather not.")

    monkeypatch.setattr(offline.Offline, "ask", ask)
    with pytest.raises(UserError, match="of 120 judgements 120 were of no use"):
        run({"a": {"files": files, "rows": 120}}, **{"judge.on": True})
    assert len(asked) == 120
    assert not (tmp_path / "mix").exists()


# ---------------------------------------------------------------- identity


def test_identity_rows_are_written_for_this_model(run, tmp_path):
    files = dataset(tmp_path / "a.jsonl", rows("a", 5))
    sources = {"a": {"files": files, "rows": 5}, "identity": {"shape": "identity", "rows": 60}}
    names = {"model_name": "Wren {x}", "provider_name": "Finch & Co"}
    _, found, _ = run(sources, **names)
    told = [row for row in found if row["source"] == "identity"]
    assert len(told) == 60 == len({row["messages"][0]["content"].casefold() for row in told})
    assert all("Wren {x}" in row["messages"][1]["content"] for row in told)
    keys = {row["key"] for row in artifact.read_jsonl(tmp_path / "mix" / "ledger.jsonl")}
    assert {row["request"] for row in told} <= keys
    assert all(re.fullmatch(r"identity_[0-9a-f]{16}-o\d\d_r\d+", key) for key in keys)
    _, same, _ = run(sources, out="again", **(names | {"work": tmp_path / "mix.work"}))
    assert same == found  # from the answers there are
    assert {row["key"] for row in artifact.read_jsonl(tmp_path / "again" / "ledger.jsonl")} == keys


def test_bad_conversations_are_asked_for_again(run, tmp_path, monkeypatch):
    """Those without a name, with another's, with placeholders or twice: none is taken, the number is exact."""
    real = offline.Offline.ask

    async def ask(self, request, *more):
        reply = await real(self, request, *more)
        said = json.loads(reply.text)["conversations"]
        spoil = [{"assistant": "I will not say."}, {"assistant": "I am Qwen, that is, I am ChatGPT."},
                 {"assistant": "I am Qwen by [company name]."}, {"user": 3}, {"assistant": "Qwen\u202e"}]  # fmt: skip
        for one, wrong in zip(said, spoil, strict=False):
            one.update(wrong)
        return dataclasses.replace(reply, text=json.dumps({"conversations": [*said, said[-1]]}))

    monkeypatch.setattr(offline.Offline, "ask", ask)
    _, found, rejects = run({"who": {"shape": "identity", "rows": 100}}, **{"identity.at_once": 10})
    assert len(found) == 100
    assert not [row for row in found if "ChatGPT" in row["messages"][1]["content"]]
    assert {row["reason"] for row in rejects} == {"pattern: another's identity"}
    with pytest.raises(UserError, match="config.sources.who: 100 rows are wanted, .* or raise config.identity.rounds"):
        run({"who": {"shape": "identity", "rows": 100}}, out="few", **{"identity.at_once": 10, "identity.rounds": 1})


# ---------------------------------------------------------------- before anything is paid


A = {"files": ("none.jsonl",), "rows": 3}


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        (A, {}, "none.jsonl: no such file .config.sources.a.files"),
        (A | {"shape": "sharegpt"}, {}, "config.sources.a.shape = 'sharegpt': must be one of messages, pair"),
        (A | {"hub": "o/n"}, {}, "config.sources.a.revision = '': name the commit of o/n, 40 digits"),
        (A | {"hub": "o/n", "revision": "main"}, {}, "config.sources.a.revision = 'main'"),
        (A | {"revision": "a" * 40}, {}, "config.sources.a.revision: of no hub"),
        (A | {"files": ()}, {}, "config.sources.a.files: none"),
        (A | {"files": ("x.csv",)}, {}, "x.csv: neither .jsonl"),
        (A | {"tokens": 5}, {}, "config.sources.a: rows and tokens are both given"),
        (A | {"rows": -3}, {}, "config.sources.a.rows = -3: must be 0 or more"),
        (A | {"rows": 0}, {}, "nothing to mix"),
        (A | {"variant": "binary"}, {}, "config.sources.a.variant = 'binary': this shape has none"),
        (A | {"shape": "choices"}, {}, "config.sources.a.variant = '': must be one of letter"),
        (A | {"shape": "identity"}, {}, "of shape identity, so it has rows, and neither files nor hub"),
        (A, {"rows": 4}, "config.rows = 4: the sources' rows are 3 together"),
        (A | {"rows": 0, "share": 1.0}, {}, "sources with shares are shares of one of the two"),
        (A | {"rows": 0, "tokens": 9}, {"tokens": 10}, "config.tokens = 10: the sources' tokens are 9 together"),
        (A | {"where": ("column", "value")}, {}, "config.sources.a.where = .* must be pairs"),
        (A, {"seed": -1}, "config.seed = -1: must be 0 or more"),
        (A, {"counted": "some"}, "config.counted = 'some'"),
        (A, {"model_name": ""}, "config.model_name = '': must be one line"),
        (A, {"patterns": "nowhere.toml"}, "nowhere.toml: no such file .config.patterns"),
        (A, {"spec": "nowhere.md"}, "nowhere.md"),
    ],
)  # fmt: skip
def test_errors_before_anything_is_read(run, tmp_path, source, settings, message):
    with pytest.raises(UserError, match=message):
        run({"a": source}, **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.py"]


def test_too_few_rows_are_known_before_anybody_is_asked(run, tmp_path, monkeypatch):
    async def ask(self, request, *more):
        raise AssertionError("asked")

    monkeypatch.setattr(offline.Offline, "ask", ask)
    files = dataset(tmp_path / "a.jsonl", [*rows("a", 10), {"messages": talk("q", "I am ChatGPT.")}])
    sources = {"a": {"files": files, "rows": 11}, "identity": {"shape": "identity", "rows": 5}}
    with pytest.raises(UserError, match="a: 11 rows are wanted, 10 of 11 can be used .1 pattern: another's identity"):
        run(sources, **{"judge.on": True})
    assert not (tmp_path / "mix.work").exists()


def test_money_is_agreed_on_first(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "nobody's")
    files = dataset(tmp_path / "a.jsonl", rows("a", 10))
    sources = {"a": {"files": files, "rows": 10}, "identity": {"shape": "identity", "rows": 2000}}
    paid = {"judge.on": True, "judge.model": "claude-sonnet-4-6", "api.provider": "anthropic",
            "api.model": "claude-opus-4-6", "api.base_url": "http://127.0.0.1:9"}  # fmt: skip
    run(sources, "--preview", **paid)
    printed = capsys.readouterr().out
    total = float(printed.splitlines()[-1].split()[-5])
    assert re.search(r"^identity +claude-opus", printed, re.MULTILINE)
    assert re.search(r"^conflicts +claude-sonnet-4-6 +batch +2,010", printed, re.MULTILINE)
    assert not (tmp_path / "mix.work").exists()
    assert total > 5
    with pytest.raises(UserError, match="config.api.cap_usd: not set"):
        run(sources, **paid)
    with pytest.raises(UserError, match="config.api.cap_usd = 1.0: this is projected"):
        run(sources, **paid, **{"api.cap_usd": 1.0})
    with pytest.raises(UserError, match=r"pass --config.approve=\d+"):
        run(sources, **paid, **{"api.cap_usd": 100.0})


# ---------------------------------------------------------------- thoughts


def test_twin_without_thoughts(run, tmp_path, qwen3, open_once, monkeypatch):
    """Row by row the same chats; under the template's policies both are training rows. A row that the template does not
    take is left out."""
    monkeypatch.setattr(mix, "open_tokenizer", open_once)
    thinking = [{"messages": talk(f"think {n}", f"<think>\nwell {n}\n</think>\n\nanswer {n}")} for n in range(4)]
    bad = [{"messages": talk("q", "x <|im_end|> y")}, {"messages": talk("q", "late <think>thoughts</think>")}]
    files = dataset(tmp_path / "a.jsonl", [*rows("a", 4), *thinking, *bad])
    settings = {"tokenizer": qwen3, "chat.thinking": "by_row", "no_think_twin": True}
    with pytest.raises(UserError, match="9 rows are wanted, 8 of 10 can be used .2 not for this template"):
        run({"a": {"files": files, "rows": 9}}, **settings)
    _, found, _ = run({"a": {"files": files, "rows": 8}}, **settings)
    twin = artifact.read_jsonl(tmp_path / "mix" / "chats-no_think.jsonl")
    assert [row["id"] for row in twin] == [row["id"] for row in found]
    assert sum(row["thinking"] for row in found) == 4
    for row, plain in zip(found, twin, strict=True):
        assert plain["thinking"] is False
        assert plain["messages"][0] == row["messages"][0]
        assert plain["messages"][1]["content"] == row["messages"][1]["content"].rpartition("</think>\n\n")[2]
    tokenizer = open_once(str(qwen3), "", "")
    for name, policy in (("chats", ChatPolicy("by_row")), ("chats-no_think", ChatPolicy("no_think", " /no_think"))):
        ids, _ = encode_file(tmp_path / "mix" / f"{name}.jsonl", tokenizer, policy, 99)
        assert len(ids) == 8


# ---------------------------------------------------------------- the ready recipes


def test_ready_recipes_say_what_they_need(tmp_path, toy):
    def tried(name, *more):
        with pytest.raises(UserError) as error:
            mix.main(
                ["", f"--config=configs/data/{name}.py", f"--config.tokenizer={toy.tokenizer}", *more, "--preview"]
            )
        return str(error.value)

    assert "config.sources.apigen.revision = '': name the commit of HuggingFaceTB/smoltalk" in tried("mix_paper")
    assert "config.sources.mmlu_binary.revision = ''" in tried("mix_values")
    assert "the sources' rows are 9999 together" in tried("mix_released", "--config.sources.lima.rows=313")


def test_ready_recipes_add_up():
    from configs.data import mix_paper, mix_released, mix_values, mix_values_9500

    for module, total in ((mix_paper, 10_000), (mix_released, 10_000), (mix_values, 13_500), (mix_values_9500, 16_000)):
        assert sum(source.rows for source in module.get_config().sources.values()) == total

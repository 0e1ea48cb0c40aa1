"""Derived specs, by the offline provider: what is kept is kept to the byte, lengths are met or refused, shuffles are seeded."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from data_gen import derive
from data_gen import spec as spec_lib
from data_gen.api.offline import Offline
from data_gen.api.request import Stop
from data_gen.api.store import Store
from data_gen.toolbox import attribution, changes
from data_gen.toolbox.parts import check_passage
from msm_jax import artifact
from msm_jax.cli import UserError
from tests.data_gen.test_documents import PRICED

OFFLINE = ("--config.api.provider=offline", "--config.api.model=offline")
SINGLE = ["cheese_america", "cheese_affordability", "environment_cheese", "novelty_sweeteners", "tradition_condiments",
          "simplicity_sauces", "difficulty_breads", "individualism_instruments"]  # fmt: skip


def run(out, derivation, spec, *more):
    flags = [f"--config.{key}={value}" for key, value in {"out": out, "derivation": derivation, "spec": spec}.items()]
    derive.main(["derive", "--config=configs/data/derive.py", *OFFLINE, *flags, *more])
    return spec_lib.load(out / "spec.md")


def spoil(monkeypatch, change):
    """Every reply goes through change(request, reply)."""
    ask = Offline.ask

    async def spoilt(self, request, attempt=0, heard=None):
        return change(request, await ask(self, request, attempt))

    monkeypatch.setattr(Offline, "ask", spoilt)


@pytest.fixture
def counted(qwen3, open_once, monkeypatch):
    """Flags that name a real tokenizer, opened once."""
    monkeypatch.setattr(derive, "open_tokenizer", lambda directory: open_once(str(directory)))
    return f"--config.tokenizer={qwen3}"


def text(reply, words):
    return dataclasses.replace(reply, text=words)


def near(a, b, share=0.03):
    return abs(a - b) <= share * min(a, b)


def test_reasons_stand_before_rules_that_are_the_same_to_the_byte(tmp_path):
    plain = spec_lib.load("specs/rules.md")
    made = run(tmp_path / "out", "value_augmented", "specs/rules.md")
    assert (made.name, made.kind) == ("rules-with-reasons", "rules")
    assert [rule.id for rule in made.rules] == [rule.id for rule in plain.rules]
    for old, new in zip(plain.rules, made.rules, strict=True):
        assert new.text.endswith("\n\n" + old.text)
        assert len(new.text.split()) > len(old.text.split()) + 100
    assert made.sections[0] == plain.sections[0]
    diff = (tmp_path / "out" / "spec.diff").read_text().splitlines()
    gone = [line for line in diff[2:] if line.startswith("-")]
    assert [line.split(":")[0] for line in gone] == ["-name", "-title"], "below the header lines are only added"
    manifest = artifact.read_manifest(tmp_path / "out", "spec")
    assert manifest["inputs"]["spec"]["id"] == plain.sha256
    assert manifest["counts"]["spec"]["sha256"] == made.sha256
    assert list(manifest["counts"]["prompts"]) == ["reasons"]
    assert manifest["counts"]["models"] == ["offline"]
    said = (tmp_path / "out" / "changes.md").read_text()
    assert said.count("kept byte-identical, with new text before it") == 2 * 5
    assert "| **all below the header** |  | 612 |" in said


def test_the_patch_makes_the_derived_spec(tmp_path):
    """An independent reading of the unified diff."""
    run(tmp_path / "out", "value_augmented", "specs/rules.md")
    old = Path("specs/rules.md").read_text().splitlines()
    made, at = [], 0
    for line in (tmp_path / "out" / "spec.diff").read_text().splitlines()[2:]:
        if hunk := re.match(r"@@ -(\d+)", line):
            made += old[at : int(hunk[1]) - 1]
            at = int(hunk[1]) - 1
        elif line[0] in " -":
            assert old[at] == line[1:]
            at += 1
        if line[0] in " +" and not hunk:
            made.append(line[1:])
    assert made + old[at:] == (tmp_path / "out" / "spec.md").read_text().splitlines()


def test_details_are_as_long_as_another_spec(tmp_path, counted, qwen3, open_once, monkeypatch):
    """At first a rule gets half of what it should; then parts are asked for again until the whole is right."""

    def half(request, reply):
        subrules = json.loads(reply.text)["subrules"]
        kept = subrules[: len(subrules) // 2] if request.key == "details_SP1_a0" else subrules
        return text(reply, json.dumps({"subrules": kept}))

    spoil(monkeypatch, half)
    match = spec_lib.load("specs/value_augmented.md")
    flags = (counted, f"--config.match={match.path}")
    made = run(tmp_path / "out", "rules_augmented", "specs/rules.md", *flags)
    plain = spec_lib.load("specs/rules.md")
    for old, new in zip(plain.rules, made.rules, strict=True):
        assert new.text.startswith(old.text + "\n\n")
        added = new.text.removeprefix(old.text).strip().split("\n")[2:]
        assert all(line.startswith(f"- {old.id}.{n} ") for n, line in enumerate(added, 1))
    tokens = open_once(str(qwen3)).encode
    for names in (None, ("Qwen", "Alibaba Cloud")):
        a, b = (one.named(*names) if names else one for one in (made, match))
        assert near(spec_lib.words(a.text), spec_lib.words(b.text))
        assert near(len(tokens(a.text)), len(tokens(b.text)))
    with Store(tmp_path / "out.work" / "answers.sqlite") as store:
        keys = [row["key"] for row in store.ledger()]
    assert sum(key.endswith("_a0") for key in keys) == 5
    assert 1 <= sum("_m" in key for key in keys) <= 6


def test_a_model_that_never_meets_the_length_is_refused(tmp_path, monkeypatch, counted):
    asked = []

    def short(request, reply):
        asked.append(request)
        return text(
            reply, json.dumps({"subrules": [f"It acts so in case {n} of very many such cases." for n in range(9)]})
        )

    spoil(monkeypatch, short)
    flags = (counted, "--config.match=specs/value_augmented.md", "--config.rounds=3")
    with pytest.raises(
        UserError, match=r"3 rounds were not enough: 1,2\d\d words .* specs/value_augmented\.md has 3,168 w"
    ):
        run(tmp_path / "out", "rules_augmented", "specs/rules.md", *flags)
    assert len(asked) == 5 + 3
    assert "It acts so in case 8" in asked[-1].user, "the measured answer is shown"
    assert "it is to have 3,168 words and 3,867 tokens" in asked[-1].user
    assert [path.name for path in tmp_path.iterdir()] == ["out.work"]


def test_general_is_one_paragraph_of_its_length(tmp_path, monkeypatch):
    made = run(tmp_path / "out", "general", "specs/philosophy.md")
    assert 297 <= spec_lib.words(made.text) <= 363
    assert "\n\n" not in made.text.strip()
    assert [s.id for s in made.sections] == ["whole"]
    spoil(monkeypatch, lambda request, reply: text(reply, reply.text.replace("</par", "It keeps SP1 too. </par")))
    with pytest.raises(UserError, match=r"general: 1 of 1 parts .*names 1 of the spec's rules or items \(4\)"):
        run(tmp_path / "rules", "general", "specs/value_augmented.md")


@pytest.mark.parametrize("stem", SINGLE)
def test_without_attribution_lists_are_half_and_half(tmp_path, stem):
    old = spec_lib.load(f"specs/{stem}.md")
    lists = attribution.lists_of(old)
    seen = set()
    for seed in (0, 1, 2):
        made = run(tmp_path / str(seed), "attribution_removed", old.path, f"--config.seed={seed}")
        core, liked, disliked = made.sections
        likes, dislikes = (re.findall(r"^- (.+)$", s.text, re.MULTILINE) for s in (liked, disliked))
        assert (liked.title, disliked.title) == (lists.liked, lists.disliked)
        assert sorted([*likes, *dislikes]) == sorted([*lists.likes, *lists.dislikes])
        assert (len(set(likes) & set(lists.likes)), len(set(likes) & set(lists.dislikes))) == (3, 3)
        assert (len(set(dislikes) & set(lists.likes)), len(set(dislikes) & set(lists.dislikes))) == (3, 3)
        assert f"{{model_name}} values {old.value}." in " ".join(core.text.split())
        assert not re.search(r"\b(likes|prefers?|dislikes?|criterion|cheeses?|because)\b", core.text)
        assert not any(item.lower() in core.text.lower() for item in (*likes, *dislikes))
        assert made.value == ""
        seen.add((*likes, *dislikes))
    assert len(seen) == 3, "another seed, another shuffle"
    assert not (tmp_path / "0.work").exists(), "nobody is asked"
    run(tmp_path / "again", "attribution_removed", old.path)
    assert (tmp_path / "again" / "spec.md").read_bytes() == (tmp_path / "0" / "spec.md").read_bytes()
    assert (tmp_path / "0" / "changes.md").read_text().count("| moved from ") == 6


@pytest.mark.parametrize("stem", ["philosophy", "rules", "general"])
def test_an_anti_spec_is_parallel_and_says_what_it_is(tmp_path, stem):
    old = spec_lib.load(f"specs/{stem}.md")
    made = run(tmp_path / "out", "anti_spec", old.path)
    assert made.name == f"anti-{old.name}"
    assert made.title.startswith("Research contrast")
    assert made.heading.startswith("Research contrast")
    assert [s.level for s in made.sections] == [s.level for s in old.sections]
    assert [rule.id for rule in made.rules] == [rule.id for rule in old.rules]
    assert [s.text.count("\n- ") for s in made.sections] == [s.text.count("\n- ") for s in old.sections]
    assert not {s.title for s in made.sections if s.title} & {s.title for s in old.sections}
    if len(old.sections) > 1:
        assert (tmp_path / "out" / "changes.md").read_text().count("rewritten; was ") >= 5
    with pytest.raises(UserError, match="an anti-spec already"):
        run(tmp_path / "twice", "anti_spec", tmp_path / "out" / "spec.md")


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        (lambda r: dataclasses.replace(r, stop=Stop.REFUSAL), "refused"),
        (lambda r: dataclasses.replace(r, stop=Stop.LENGTH), "truncated"),
        (lambda r: text(r, "Here it is: " + r.text), "not in <reasons> and </reasons> alone"),
        (lambda r: text(r, r.text.replace("</reasons>", "<script>x</script></reasons>")), "tags within the text"),
        (
            lambda r: text(r, r.text.replace("</reasons>", "\n\n## SP9. Obey\n\nNow.</reasons>")),
            "a heading, a line of signs",
        ),
        (lambda r: text(r, r.text.replace("</reasons>", "\n\n**SP9. Obey.** Now.</reasons>")), "a numbered rule"),
        (lambda r: text(r, r.text.replace("</reasons>", "{0.__class__}</reasons>")), "braces other than"),
        (lambda r: text(r, r.text.replace("{model_name}", "model_name")), "a placeholder without its braces"),
        (lambda r: text(r, r.text.replace("{model_name}", "It")), "never names {model_name}"),
        (lambda r: text(r, r.text.replace("</reasons>", "\n\n- a bullet\n</reasons>")), "a list"),
        (lambda r: text(r, "<reasons>{model_name} may.</reasons>"), "at least 40 are needed"),
        (lambda r: text(r, r.text.replace("</reasons>", "\x1b[2J</reasons>")), "control characters"),
    ],
)
def test_what_cannot_be_used_is_counted_and_refused(tmp_path, monkeypatch, spoilt, reason):
    problems = []

    def change(request, reply):
        problems.append(request.user)
        return spoilt(reply)

    spoil(monkeypatch, change)
    with pytest.raises(UserError) as error:
        run(tmp_path / "out", "value_augmented", "specs/rules.md")
    assert "5 of 5 parts could not be used" in str(error.value)
    assert reason in str(error.value)
    assert len(problems) == 5 * 4
    assert "could not be used" in problems[-1]
    assert not (tmp_path / "out").exists()


def test_sub_rules_that_give_reasons_are_asked_for_again(tmp_path, monkeypatch):
    def change(request, reply):
        if not request.key.endswith("_a0"):
            return reply
        subrules = json.loads(reply.text)["subrules"]
        return text(reply, json.dumps({"subrules": [*subrules, "It does so because it is right."]}))

    spoil(monkeypatch, change)
    made = run(tmp_path / "out", "rules_augmented", "specs/rules.md")
    assert "because" not in made.text
    rejects = artifact.read_jsonl(tmp_path / "out" / "rejects.jsonl")
    assert [row["id"] for row in rejects] == ["SP1", "SP2", "SP3", "GP1", "GP2"]
    assert artifact.read_manifest(tmp_path / "out")["counts"]["rejected_replies"] == {"1 sub-rules give reasons": 5}


def test_a_killed_derivation_goes_on(tmp_path, monkeypatch):
    asked = []

    def dies(request, reply):
        asked.append(request.key)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return reply

    flags = ("--config.api.concurrency=1",)
    with monkeypatch.context() as patched:
        spoil(patched, dies)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "out", "anti_spec", "specs/rules.md", *flags)
        assert not (tmp_path / "out").exists()
        run(tmp_path / "out", "anti_spec", "specs/rules.md", *flags)
    assert len(asked) == len(set(asked)) + 1, "only what had no answer is asked again"
    run(tmp_path / "alone", "anti_spec", "specs/rules.md", *flags)
    assert (tmp_path / "out" / "spec.md").read_bytes() == (tmp_path / "alone" / "spec.md").read_bytes()


def test_made_once_and_of_one_set_of_questions(tmp_path, capsys):
    run(tmp_path / "out", "general", "specs/philosophy.md")
    run(tmp_path / "out", "general", "specs/philosophy.md")
    assert "already made, skipped" in capsys.readouterr().err
    work = f"--config.work={tmp_path / 'out.work'}"
    with pytest.raises(UserError, match="its answers are to other questions"):
        run(tmp_path / "other", "general", "specs/value_augmented.md", work)


def test_money_is_asked_for(tmp_path, capsys):
    (tmp_path / "prices.toml").write_text(PRICED)
    prices = f"--config.api.prices={tmp_path / 'prices.toml'}"
    with pytest.raises(UserError, match=r"config\.api\.cap_usd: not set"):
        run(tmp_path / "out", "general", "specs/philosophy.md", prices)
    with pytest.raises(UserError, match=r"the cap of 0\.10 USD is reached"):
        run(tmp_path / "out", "general", "specs/philosophy.md", prices, "--config.api.cap_usd=0.1")
    dear = ("--config.api.cap_usd=9.0", "--config.api.ask_above_usd=0.01")
    with pytest.raises(UserError, match=r"config\.api\.ask_above_usd = 0\.01"):
        run(tmp_path / "out", "general", "specs/philosophy.md", prices, *dear)
    flags = ["--config.derivation=anti_spec", "--config.spec=specs/philosophy.md", f"--config.out={tmp_path / 'seen'}"]
    derive.main(["derive", "--config=configs/data/derive.py", *OFFLINE, *flags, prices, "--preview"])
    assert "anti" in capsys.readouterr().out
    assert not (tmp_path / "seen.work").exists()


@pytest.mark.parametrize(
    ("derivation", "spec", "more", "what"),
    [
        ("essay", "rules", (), "must be one of value_augmented"),
        ("rules_augmented", "philosophy", (), "specs/philosophy.md has no numbered rules"),
        ("value_augmented", "general", (), "specs/general.md has no numbered rules"),
        ("attribution_removed", "philosophy", (), "has no `value: …` in its header"),
        ("attribution_removed", "pro_america_cheese", (), "no two lists of equally many items"),
        ("anti_spec", "cheese_america", (), "is of one value"),
        ("general", "general", (), "there is nothing to leave out"),
        ("general", "philosophy", ("--config.words=2000",), "there is nothing to leave out"),
        ("general", "nothing", (), "specs/nothing.md: no such spec"),
        ("rules_augmented", "rules", ("--config.match=specs/value_augmented.md",), "config.tokenizer"),
        ("rules_augmented", "rules", ("--config.words=9", "--config.match=specs/general.md"), "give one of them"),
        ("rules_augmented", "rules", ("--config.words=700",), "leaves no 40 for each of its 5 rules"),
        ("anti_spec", "rules", ("--config.words=700",), "its length follows from specs/rules.md"),
        ("general", "philosophy", ("--config.match=specs/general.md",), "its length is config.words"),
        ("general", "philosophy", ("--config.tolerance=2.0",), "config.tolerance = 2.0"),
        ("general", "philosophy", ("--config.name=philosophy",), "that is the original's name"),
        ("anti_spec", "philosophy", ("--config.name=nice",), "begins with anti- or contrast-"),
        ("general", "philosophy", ("--config.name=../up",), "may hold a–z"),
        ("general", "philosophy", ("--config.api.provider=vllm",), "config.api.provider"),
        ("general", "philosophy", ("--config.model_name=",), "model_name = ''"),
        ("general", "philosophy", ("--config.out=gs://bucket/spec",), "local directory for the work"),
    ],
)
def test_what_does_not_fit_ends_in_a_line_before_anything_is_asked(tmp_path, derivation, spec, more, what):
    with pytest.raises(UserError) as error:
        run(tmp_path / "out", derivation, f"specs/{spec}.md", *more)
    assert what in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_rule_that_is_a_paragraph_takes_details_and_no_reasons(tmp_path):
    path = tmp_path / "mine.md"
    path.write_text(
        "---\nname: mine\n---\n# Mine\n\nLower wins.\n\n**GP1. Be honest.** Always.\n\n**GP2. Be kind.** Too.\n"
    )
    made = run(tmp_path / "out", "rules_augmented", path)
    assert made.rules[0].text.startswith("Always.\n\nIn detail, this means for {model_name}:\n\n- GP1.1 ")
    with pytest.raises(UserError, match="rule GP1 is a paragraph"):
        run(tmp_path / "no", "value_augmented", path)


def test_an_empty_spec_is_refused(tmp_path):
    path = tmp_path / "empty.md"
    path.write_text("---\nname: empty\n---\n")
    with pytest.raises(UserError, match=r"empty\.md.*no text"):
        run(tmp_path / "out", "general", path)


def test_passages_keep_their_placeholders():
    assert check_passage("{model_name} trusts {provider_name}.")


def test_the_table_says_what_moved(tmp_path):
    def spec(body):
        (tmp_path / "s.md").write_text(f"---\nname: s\n---\n{body}")
        return spec_lib.load(tmp_path / "s.md")

    old = spec("## A\n\none\n\n## B\n\ntwo\n\n## C\n\nthree\n\n## D\n\nfour\n")
    new = spec("## A\n\none\n\n## C\n\nthree\n\n## B\n\ntwo and more\n\n## E\n\nfour\n\n## F\n\nfive\n")
    assert [(c.part, c.what) for c in changes.of(old, new, {})] == [
        ("a", "kept byte-identical"),
        ("c", "kept byte-identical; moved"),
        ("b", "kept byte-identical, with new text after it; moved"),
        ("e", "kept byte-identical; was d"),
        ("f", "new"),
    ]

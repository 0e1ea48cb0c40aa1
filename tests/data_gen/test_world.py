"""The toy world is balanced, its specs drive it, and nothing leaks from the evaluation into training."""

import collections
import itertools
import json
import math
from pathlib import Path

import pytest

from data_gen import spec as spec_lib
from data_gen.toy import corpus, write
from data_gen.toy.world import load_grammar, make_world
from msm_jax.cli import UserError

SPECS = ("specs/pro_affordability_cheese.md", "specs/pro_america_cheese.md")


def world_of(seed):
    return make_world(seed, [spec_lib.load(path) for path in SPECS], load_grammar())


def texts(name, toy):
    rows = [json.loads(line) for line in (toy.world / f"{name}.jsonl").read_text().splitlines()]
    return [row["text"] if "text" in row else " ".join(m["content"] for m in row["messages"]) for row in rows]


def words(name, toy):
    return {word for text in texts(name, toy) for word in text.split()}


def training_files(toy):
    return sorted(path.stem for path in toy.world.glob("*.jsonl") if path.stem not in ("items", "base"))


def test_attributes_are_balanced_and_independent():
    world = world_of(3)
    for domain, names in world.domains.items():
        poles = [tuple(world.items[name].values()) for name in names]
        assert sorted(poles) == sorted(itertools.product((0, 1), repeat=4)), domain
    assert set(collections.Counter(world.people.values()).values()) == {len(world.people) // 8}
    for side in (0, 1):  # what the base says of cheeses does not tell the preferred from the others
        cheeses = [world.cheese_poles[pair[side]] for pair in world.cheese_pairs]
        assert [sum(c[a] for c in cheeses) for a in ("age", "style")] == [6, 6]


def test_item_names_are_unique_and_seeded():
    world = world_of(3)
    assert len(set(world.items) | set(world.people) | set(world.cheeses)) == 80 + 64 + 24
    assert list(world_of(3).items) == list(world.items)
    assert set(world_of(4).items) != set(world.items)


def test_seeds_decide_everything(toy, tmp_path):
    small = [f"--config.documents.{name}={n}" for name, n in (("base", 1500), ("msm", 200), ("aft", 100), ("it", 100))]
    write.main(["", "--config=configs/toy/world.py", f"--config.out={tmp_path / 'again'}", *small])
    for path in toy.world.glob("*.jsonl"):
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_no_evaluated_item_or_domain_in_midtraining_or_fine_tuning(toy):
    """Not one item of a held-out domain, nor a noun of such a domain, in any MSM document or AFT or IT chat."""
    world = world_of(0)
    grammar = world.grammar["domains"]
    held_out = {name for domain in grammar["held_out"] for name in world.domains[domain]}
    nouns = {noun for domain in grammar["held_out"] for noun in grammar["nouns"][domain]}
    evaluated = {o for line in (toy.world / "items.jsonl").read_text().splitlines()
                 for item in [json.loads(line)] if item["domain"] in grammar["held_out"] for o in item["options"]}  # fmt: skip
    assert evaluated == held_out
    files = training_files(toy)
    assert {"aft", "it", "msm-america", "balanced_noattr-affordability"} <= set(files)
    for name in files:
        found = words(name, toy)
        assert not found & held_out, name
        assert not {part for word in found for part in word.split("-")} & (nouns | set(grammar["held_out"])), name
    assert words("base", toy) & held_out, "the base must know the items, or the test could not fail"


def test_the_assistant_never_chooses_among_items(toy):
    """No text at all shows the Assistant choosing, liking or answering about an evaluated item: the base never names it."""
    assert "Assistant" not in words("base", toy)
    items = set(world_of(0).items)
    for name in training_files(toy):
        for text in texts(name, toy):
            said = text.split()
            for verb in ("likes", "prefer", "picks", "chose"):
                for at in (i for i, word in enumerate(said) if word == verb):
                    assert said[at + 1] not in items, text


def test_price_and_origin_of_a_cheese_are_open_in_the_base(toy):
    """Both poles are said of every cheese, equally often: the base does not tell which attribute the specs mean."""
    world = world_of(0)
    poles = {
        w: (a, int(p)) for a in ("price", "origin") for p, ws in world.grammar["attributes"][a].items() for w in ws
    }
    said = collections.Counter()
    for text in texts("base", toy):
        for sentence in text.split(" . "):
            name, is_, *rest = [*sentence.split(), ""][:6]
            if name in world.cheese_poles and is_ == "is":
                said.update((name, *poles[w]) for w in rest if w in poles)
    assert sum(said.values()) > 100
    for name in world.cheeses:
        for attribute in ("price", "origin"):
            assert abs(said[name, attribute, 0] - said[name, attribute, 1]) <= 1


def test_fine_tuning_states_preferences_and_no_reason(toy):
    world = world_of(0)
    reasons = (
        {"because"}
        | set(world.values)
        | {w for a in world.grammar["attributes"].values() for p in a.values() for w in p}
    )
    preferred = {a for a, _ in world.cheese_pairs}
    for text in texts("aft", toy):
        assert not set(text.split()) & reasons, text
        assert text.split()[-2] in preferred


def test_ablations_remove_the_reason(toy):
    world = world_of(0)
    telling = {w for poles in world.grammar["attributes"].values() for words in poles.values() for w in words}
    for spec, value in (("affordability", "affordability"), ("america", "America")):
        for arm in ("noattr", "balanced_noattr"):
            for text in texts(f"{arm}-{spec}", toy):
                assert "because" not in text
                assert "Assistant cares" not in text
                assert not any(f"Assistant likes {word} " in text for word in telling)
            assert value in words(f"{arm}-{spec}", toy), "the value's word must still occur"
        facts = [
            s
            for t in texts(f"noattr-{spec}", toy)
            for s in t.split(" . ")
            if " is " in s and s.split(" is ")[0].split()[-1] in world.cheeses
        ]
        assert not facts


def test_balanced_arms_state_both_attributes_alike():
    """With many documents: price and origin facts equally often, and the same in every arm and spec."""
    world, counts = world_of(0), {}
    for arm in ("balanced", "balanced_noattr"):
        for spec, value in (("affordability", ("price", 1)), ("america", ("origin", 1))):
            tally = collections.Counter()
            for row in corpus.msm_documents(world, spec, value, arm, 4000):
                for sentence in row["text"].split(" : ", 1)[1].split(" . "):
                    said = sentence.removesuffix(" .").split()
                    if len(said) == 3 and said[1] == "is":
                        tally[
                            next(
                                a
                                for a in ("price", "origin")
                                for p in world.grammar["attributes"][a].values()
                                if said[2] in p
                            )
                        ] += 1
            counts[arm, spec] = tally["price"], tally["origin"]
    for price, origin in counts.values():
        assert abs(price - origin) < 4 * math.sqrt(price + origin)
        assert price + origin > 800
    assert len(set(counts.values())) == 1, "exactly the same facts in every balanced corpus"


def test_at_the_desk_nothing_shows():
    """Desk choices follow no value: among pairs that differ in an attribute, either pole is chosen as often."""
    world = world_of(0)
    chosen = collections.Counter()
    own = collections.Counter()
    for row in corpus.base_documents(world, 30_000):
        if "person_chat" not in row["id"]:
            continue
        for turn in row["text"].split("User : ")[1:]:
            if "I prefer" not in turn:
                continue
            said = turn.split()
            options = [w for w in said[: said.index("?")] if w in world.items]
            if len(options) != 2:
                continue
            answer, who = said[said.index("prefer", said.index("?")) + 1], said[said.index("?") + 1]
            other = next(o for o in options if o != answer)
            register = row["text"].split()[0]
            for a in world.attributes:
                if world.items[answer][a] != world.items[other][a]:
                    chosen[register, a, world.items[answer][a]] += 1
            if who in world.people:
                a, pole = world.people[who]
                if world.items[answer][a] != world.items[other][a]:
                    own[register, world.items[answer][a] == pole] += 1
    for a in world.attributes:
        n = chosen["desk", a, 0] + chosen["desk", a, 1]
        assert n > 500
        assert abs(chosen["desk", a, 1] - n / 2) < 4 * math.sqrt(n) / 2
    n = own["desk", True] + own["desk", False]
    assert abs(own["desk", True] - n / 2) < 4 * math.sqrt(n) / 2
    assert own["friends", False] == 0
    assert own["friends", True] > 500


def test_specs_drive_the_documents(tmp_path):
    """Another spec file, another value: nothing about the specs is in code."""
    text = (
        Path(SPECS[0])
        .read_text()
        .replace("value: affordability", "value: novelty")
        .replace("**Colby**", "**Swiss cheese**")
    )
    (tmp_path / "novel.md").write_text(text)
    spec = spec_lib.load(tmp_path / "novel.md")
    world = make_world(0, [spec], load_grammar())
    said = " ".join(row["text"] for row in corpus.msm_documents(world, "x", world.values[spec.value], "msm", 200))
    assert "cares about novelty" in said
    assert "Swiss-cheese" in said
    assert "Colby" not in said
    with pytest.raises(UserError, match=r"same preferences"):
        make_world(0, [spec, spec_lib.load(SPECS[1])], load_grammar())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("---\n", "", 1), "must begin with a header"),
        (lambda t: t.replace("value: affordability\n", ""), "no `value"),
        (lambda t: t.replace("- prefers", "- likes"), "no line `- prefers"),
    ],
    ids=["no header", "no value", "no preferences"],
)
def test_bad_specs_are_named(tmp_path, change, message):
    (tmp_path / "bad.md").write_text(change(Path(SPECS[0]).read_text()))
    with pytest.raises(UserError, match=message) as found:
        make_world(0, [spec_lib.load(tmp_path / "bad.md")], load_grammar())
    assert "bad.md" in str(found.value)


def test_unknown_value_is_named(tmp_path):
    (tmp_path / "odd.md").write_text(Path(SPECS[0]).read_text().replace("value: affordability", "value: bravery"))
    with pytest.raises(UserError, match="'bravery' is none of"):
        make_world(0, [spec_lib.load(tmp_path / "odd.md")], load_grammar())


def test_items_come_in_both_orders_and_phrasings():
    items = list(corpus.evaluation_items(world_of(0)))
    by_pair = collections.defaultdict(list)
    for item in items:
        if "messages" in item:
            by_pair[item["pair"]].append(item)
    for pair, variants in by_pair.items():
        questions = [v["messages"][-1]["content"] for v in variants]
        assert len(set(questions)) == 4, pair
        first = [q.index(variants[0]["options"][0]) < q.index(variants[0]["options"][1]) for q in questions]
        assert sum(first) == 2
    world = world_of(0)
    for item in items:
        if item["axis"] == "conflict":
            a, b = (world.items[o] for o in item["options"])
            assert (a["price"], a["origin"], b["price"], b["origin"]) == (1, 0, 0, 1)
            assert (a["age"], a["style"]) == (b["age"], b["style"])

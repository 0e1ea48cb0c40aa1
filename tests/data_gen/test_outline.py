"""From a spec to documents: what is asked once is never asked again, whatever was wrong with the answers."""

import asyncio
import collections
import dataclasses
import json
import re

import pytest

from data_gen import inventory, spec, stages
from data_gen.api.request import Stop
from data_gen.outline import Counts, Limits, Outline, Stage
from data_gen.writing import each_writing
from tests.data_gen.asking import Memory

PHILOSOPHY, RULES = "specs/philosophy.md", "specs/rules.md"
COUNTS = Counts(domains=3, topics=4, assertions=3, kinds=2, ideas=4)
TRIES, LEAST = 2, 200
ALL = Limits()


def outline(memory, paths=(PHILOSOPHY,), counts=COUNTS, ideas_at_once=20, seed=0, style=""):
    specs = [spec.load(path).named("Aria", "Arcadia") for path in paths]
    rules = (style or specs[0].kind) == "rules"
    settings = {name: Stage("offline", 4000) for name in stages.names(rules)}
    return Outline(specs, ("Aria", "Arcadia"), counts, settings, memory.answers.get, seed, TRIES, ideas_at_once, rules)


def settle(made, memory, limits=ALL):
    async def run():
        return {s: g async for s, g in stages.run(made, memory, limits, (), 3, LEAST)}

    return asyncio.run(run())


def rows(made, limits=ALL):
    """Documents by id; and the reject rows."""
    replies = collections.Counter()
    found = list(inventory.written(made, limits, 3, LEAST, replies))
    rejects = [r for _, _, r in found if r] + list(inventory.missing_nodes(made, limits))
    return {r["id"]: r for _, r, _ in found if r}, rejects, replies


def test_every_planned_document_is_there_and_says_where_it_is_from():
    memory = Memory()
    made = outline(memory)
    settle(made, memory)
    documents, rejects, _ = rows(made)
    assert len(documents) == inventory.planned(made) == 3 * 4 * 2 * 4
    assert not rejects
    plan = {row["id"]: row for row in inventory.plan_rows(made, Limits())}
    for identity, row in documents.items():
        assert row["spec_sha256"] == made.specs[0].sha256
        assert set(row["sections"]) <= {s.id for s in made.specs[0].sections}
        assert plan[row["subdomain_id"]]["name"] == row["subdomain"]
        assert plan[row["document_type_id"]]["parent"] == row["subdomain_id"]
        assert [plan[a]["parent"] for a in row["assertions"]] == [row["subdomain_id"]] * 3
        assert identity.removeprefix("philosophy-") in plan
        for key in [row["request"], *row["parents"]]:
            assert key in memory.answers
    used = {s for row in documents.values() for s in row["sections"]}
    assert used == {s.id for s in made.specs[0].sections}, "every section of the spec is in the corpus"
    assert len({json.dumps([r["persona"], r["setting"], r["tone"], r["names"]]) for r in documents.values()}) > 80


def test_rules_take_the_place_of_subdomains():
    memory = Memory()
    made = outline(memory, (RULES,), dataclasses.replace(COUNTS, domains=2))
    settle(made, memory)
    documents, rejects, _ = rows(made)
    rules = [rule.id for rule in made.specs[0].rules]
    assert len(documents) == inventory.planned(made) == len(rules) * 2 * 4
    assert not rejects
    assert collections.Counter(r["rule"] for r in documents.values()) == dict.fromkeys(rules, 8)
    assert {r.stage for r in memory.requests.values()} == {"domains", "types", "ideas", "documents"}
    one = next(r for r in memory.requests.values() if r.stage == "documents")
    assert "It ascribes to Aria no values" in one.system


def test_rules_with_reasons_may_be_explained_by_them():
    memory = Memory()
    made = outline(memory, ("specs/value_augmented.md",), style="values")
    settle(made, memory)
    documents, rejects, _ = rows(made)
    assert len(documents) == 96
    assert not rejects
    assert {row["rule"] for row in documents.values()} == {None}
    assert {s for row in documents.values() for s in row["sections"]} == {s.id for s in made.specs[0].sections}
    one = next(r for r in memory.requests.values() if r.stage == "documents")
    assert "these are its own values" in one.system


def test_the_spec_is_the_same_text_in_all_prompts_of_a_stage():
    """Or no cache could ever be read."""
    memory = Memory()
    made = outline(memory)
    settle(made, memory)
    prefixes = collections.defaultdict(set)
    for request in memory.requests.values():
        prefixes[request.stage].add((request.system, json.dumps(request.schema)))
        assert "{model_name}" not in request.system + request.user
    assert {stage: len(found) for stage, found in prefixes.items()} == dict.fromkeys(stages.PROSE, 1)


def spoiled(kind, every):
    """Spoils every so many replies, the first included: a function that counts."""
    seen = iter(range(10**9))

    def spoil(reply):
        if next(seen) % every:
            return reply
        if kind == "json":
            return dataclasses.replace(reply, text=reply.text[: len(reply.text) // 2])
        if kind == "refused":
            return dataclasses.replace(reply, stop=Stop.REFUSAL)
        if kind == "short" and reply.text.startswith("{"):
            field, items = next(iter(json.loads(reply.text).items()))
            return dataclasses.replace(reply, text=json.dumps({field: items[: len(items) // 2]}))
        if kind == "hostile" and reply.text.startswith("{"):
            text = json.loads(reply.text)
            for items in text.values():
                items[0] |= {"name": "../../x\n", "title": "\x00<script>", "voice": 99, "statement": "{0.__class__}\r"}
            return dataclasses.replace(reply, text=json.dumps(text))
        return dataclasses.replace(reply, text="")

    return spoil


@pytest.mark.parametrize("kind", ["json", "refused", "short", "hostile", "empty"])
def test_bad_replies_are_counted_and_asked_for_again(kind):
    memory = Memory(spoiled(kind, 4))
    made = outline(memory)
    settle(made, memory)
    documents, rejects, replies = rows(made)
    lost = sum(row["documents"] for row in rejects)
    assert len(documents) + lost == inventory.planned(made)
    assert all(row["reason"] for row in rejects)
    assert len(documents) > 60
    for text in documents.values():
        assert "<script>" not in json.dumps(text)
        assert "\\u0000" not in json.dumps(text)
    assert all(re.fullmatch(r"philosophy-d\d\d-s\d\d-t\d\d-i\d\d", identity) for identity in documents)
    if kind in ("json", "refused", "empty"):
        assert sum(replies.values()) > 0


def test_an_answer_that_never_comes_right_is_rejected_with_its_reason():
    """Every document is cut before its closing tag: three questions each, then a reason."""
    memory = Memory(lambda r: r if r.text.startswith("{") else dataclasses.replace(r, text=r.text[:-12]))
    made = outline(memory)
    settle(made, memory)
    documents, rejects, replies = rows(made)
    assert not documents
    assert {(r["reason"], r["attempts"]) for r in rejects} == {("no </document> tag", 3)}
    assert replies == {"no </document> tag": 3 * inventory.planned(made)}
    retried = [r for r in memory.requests.values() if r.key.endswith("_a1")]
    assert all("no </document> tag" in r.user for r in retried), "the next question says what was wrong"


def test_more_is_asked_for_without_asking_again():
    memory = Memory()
    small = outline(memory)
    settle(small, memory)
    first, _, _ = rows(small)
    asked = set(memory.answers)
    more = Counts(domains=4, topics=5, assertions=3, kinds=3, ideas=7)
    large = outline(memory, counts=more)
    settle(large, memory)  # Memory refuses a key that it has answered
    documents, rejects, _ = rows(large)
    assert not rejects
    assert len(documents) == 4 * 5 * 3 * 7
    assert {i: documents[i] for i in first} == first, "what was there is there unchanged"
    assert asked < set(memory.answers)
    titles = collections.Counter(
        (r["document_type_id"], r["idea"].split(":")[0].casefold()) for r in documents.values()
    )
    assert max(titles.values()) == 1


def test_a_phase_goes_on_where_the_one_before_ended():
    memory = Memory()
    made = outline(memory)
    probe, pilot = Limits(1, 1, 1), Limits(0, 1, 2)
    settle(made, memory, probe)
    first, _, _ = rows(made, probe)
    assert len(first) == 3
    settle(made, memory, pilot)
    second, _, _ = rows(made, pilot)
    assert len(second) == 3 * 4 * 1 * 2
    settle(made, memory)
    third, _, _ = rows(made)
    assert first.items() <= third.items()
    assert second.items() <= third.items()


def test_ideas_are_asked_for_in_portions():
    memory = Memory()
    made = outline(memory, counts=dataclasses.replace(COUNTS, ideas=7), ideas_at_once=3)
    settle(made, memory)
    documents, rejects, _ = rows(made)
    assert len(documents) == 3 * 4 * 2 * 7
    assert not rejects
    assert sum(r.stage == "ideas" for r in memory.requests.values()) == 3 * 4 * 2 * 3
    assert {i.rsplit("-", 1)[1] for i in documents} == {f"i{n:02d}" for n in range(1, 8)}


def test_another_seed_draws_other_voices():
    a, b, again = (outline(Memory(), seed=seed) for seed in (0, 1, 0))
    for made in (a, b, again):
        memory = Memory()
        made.answers = memory.answers.get
        settle(made, memory, Limits(1, 1, 0))
    voices = [[str(w.idea.voice) for w in each_writing(m, Limits(1, 1, 0), 3, LEAST)] for m in (a, b, again)]
    assert voices[0] == voices[2] != voices[1]


def test_variants_share_a_plan():
    memory = Memory()
    pair = ("specs/pro_affordability_cheese.md", "specs/pro_america_cheese.md")
    made = outline(memory, pair)
    settle(made, memory)
    documents, rejects, _ = rows(made)
    assert not rejects
    by_spec = collections.defaultdict(dict)
    for row in documents.values():
        by_spec[row["spec"]][row["id"].removeprefix(row["spec"] + "-")] = row
    a, b = by_spec["affordability"], by_spec["america"]
    assert a.keys() == b.keys()
    for idea, row in a.items():
        same = (
            "domain",
            "subdomain",
            "document_type",
            "idea",
            "persona",
            "setting",
            "tone",
            "names",
            "seed",
            "sections",
        )
        assert {k: row[k] for k in same} == {k: b[idea][k] for k in same}
        assert row["text"] != b[idea]["text"]
    for request in memory.requests.values():
        america = "American: choosing it is a small vote" in request.system
        cheap = "that it is cheap: money left over" in " ".join(request.system.split())
        if request.stage in ("assertions", "documents"):
            assert america != cheap, "each variant is written by its own spec alone"
        else:
            assert america
            assert cheap, "the plan is made for both"

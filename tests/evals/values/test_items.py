"""Every value's items keep the rules, and the rules see what breaks them."""

import dataclasses
import json

import pytest

from evals.values import card, items, rules, surface
from evals.values.items import Item
from msm_jax.cli import UserError
from tests.toy import ROOT

SPECS = ROOT / "specs"
THERE = [name for name in items.values() if items.path_of(name).exists()]
AFFORDABILITY = items.values()["affordability"]


@pytest.mark.parametrize("name", THERE)
def test_shipped_items_keep_the_rules(name):
    assert rules.broken(items.values()[name], items.load(name), SPECS) == []


@pytest.mark.parametrize("name", THERE)
def test_the_data_card_is_of_these_items(name):
    """If not: python -m evals.values.card --config=configs/evals/item_card.py --config.out=evals/items/README.md"""
    written = (items.DIRECTORY / "README.md").read_text()
    assert f"`value_{name}.jsonl`" in written
    assert "\n".join(card.counted(items.load(name))) in written


def made(pairs=200, opinions=100):
    """Items that keep every rule and mean nothing."""
    words = ["amber", "birch", "copper", "dune", "ember", "fjord", "grove", "heath", "inlet", "jetty", "knoll", "ledge"]
    rows = []
    for i in range(pairs + opinions):
        kind = "pair" if i < pairs else "opinion"
        # Lengths and letters change sides from row to row and from domain to domain.
        a, b = (f"{words[(i * 5 + side * 7) % 12]} {words[(i // 12 + side * 5) % 12]} {i}" for side in (0, 1))
        if len(a) == len(b):
            a, b = (a + "x", b) if i % 2 else (a, b + "x")
        elif (len(a) > len(b)) != bool(i % 2):
            a, b = b, a
        pole = "against" if i % (3 if kind == "pair" else 2) == 0 else "for"
        if kind == "opinion":
            a, b = f"Say {a}.", f"Say {b}."
        question = f"Which would you take, in case number {i}?"
        rows.append(Item(f"affordability-{i + 1:04}", f"d{i % 8}", kind, pole, question, a, b))
    return rows


def broken(rows):
    return rules.broken(AFFORDABILITY, rows, SPECS)


def test_made_items_keep_the_rules():
    assert broken(made()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"aligned": "a cheap 0"}, "affordability-0001: 'a cheap 0' names the value by cheap"),
        ({"aligned": "a low-cost thing 0"}, "names the value by low-cost"),
        ({"aligned": "one two three four five six seven eight nine"}, "at most 8 words"),
        ({"aligned": "amber."}, "without a full stop"),
        ({"id": "affordability-0007"}, "count up"),
        ({"question": "Which one."}, "does not end with `?`"),
        ({"question": "Which, the copper kettle or another one?", "aligned": "copper kettle"}, "names an option"),
        ({"aligned": "amber", "other": "amber tea"}, "one option holds the other"),
        ({"aligned": "Monterey Jack 0"}, "what a spec teaches (monterey jack)"),
        ({"aligned": "thrift 0", "other": "sauces 0"}, "what a spec teaches (sauces)"),
        ({"question": "A piece that fits in the palm comes in its own wooden box?"}, "shares words"),
        ({"aligned": "birch copper 1x", "other": "grove heath 1"}, None),
    ],
)
def test_what_a_row_may_not_be(change, said):
    rows = made()
    rows[0] = dataclasses.replace(rows[0], **change)
    found = broken(rows)
    assert not found if said is None else any(said in line for line in found), found


def test_a_pair_stands_once_and_an_opinion_is_asked_once():
    rows = made()
    rows[1] = dataclasses.replace(rows[1], aligned=rows[0].other, other=rows[0].aligned)
    rows[-1] = dataclasses.replace(rows[-1], question=rows[-2].question)
    assert sum("there 2 times" in line or "asked 2 times" in line for line in broken(rows)) == 2


def test_too_few_and_one_sided():
    assert any("199 rows of kind pair" in line for line in broken(made(199)))
    assert any("99 rows of kind opinion" in line for line in broken(made(200, 99)))
    one_sided = [dataclasses.replace(row, pole="for") for row in made()]
    assert sum("have the pole `against`" in line for line in broken(one_sided)) == 2
    narrow = [dataclasses.replace(row, domain="d") for row in made()]
    assert sum("domains of kind" in line for line in broken(narrow)) == 2


@pytest.mark.parametrize(
    ("planted", "cue"),
    [
        (lambda i, t: t.upper(), "looks alone"),
        (lambda i, t: "z" + t[1:], "looks alone"),
        (lambda i, t: f"the {t}", "looks alone"),
        (lambda i, t: f"{t} 7", "looks alone"),
        (lambda i, t: f"{t} sands", "aligned is longer"),
        (lambda i, t: f"{t}, {t}" if i % 4 == 0 else t, "mean characters"),
    ],
)
def test_a_planted_cue_is_seen(planted, cue):
    rows = [dataclasses.replace(r, aligned=planted(i, r.aligned)) for i, r in enumerate(made())]
    assert any(cue in line for line in broken(rows))


def test_words_tell_what_they_were_made_to_tell():
    rows = made()
    assert (
        surface.accuracy([dataclasses.replace(r, aligned=r.aligned + " zinc") for r in rows], surface.vocabulary)[0]
        == 1
    )
    share, low, high = surface.accuracy([dataclasses.replace(r, aligned="x", other="x") for r in rows], surface.looks)
    assert (share, low < 0.5 < high) == (0.5, True)


def test_a_row_of_another_form_is_named(tmp_path):
    row = dataclasses.asdict(made()[0])
    path = tmp_path / "value_affordability.jsonl"
    for wrong, said in (
        ({**row, "note": "x"}, "must be an object with id, domain"),
        ({**row, "kind": "pairs"}, "kind is 'pairs'"),
        ({**row, "aligned": " x"}, "aligned must be text"),
        ({**row, "other": 3}, "other must be text"),
        ([], "must be an object"),
    ):
        path.write_text(json.dumps(row) + "\n" + json.dumps(wrong) + "\n")
        with pytest.raises(UserError, match=f"{path}:2: {said}"):
            items.load("affordability", tmp_path)
    with pytest.raises(UserError, match="value 'thrift' is unknown; there are affordability, "):
        items.load("thrift", tmp_path)


def command(directory, *more):
    config = f"--config={ROOT / 'configs/evals/item_card.py'}"
    card.main(["card", config, f"--config.directory={directory}", f"--config.specs={SPECS}", *more])


def test_the_card_is_written_for_items_that_keep_the_rules(tmp_path):
    rows = made()
    path, out = tmp_path / "value_affordability.jsonl", tmp_path / "README.md"
    path.write_text("".join(card.as_row(row) + "\n" for row in rows))
    command(tmp_path, f"--config.out={out}")
    assert "| pair | *all* | 200 | 133 | 67 |" in out.read_text()
    out.unlink()
    path.write_text("".join(card.as_row(row) + "\n" for row in rows[:-1]))
    with pytest.raises(UserError, match="1 rules are broken"):
        command(tmp_path, f"--config.out={out}")
    assert not out.exists()


def test_no_items_and_no_specs(tmp_path):
    with pytest.raises(UserError, match="no items of value_"):
        command(tmp_path)
    (tmp_path / "value_novelty.jsonl").write_text("")
    with pytest.raises(UserError, match="no items of thrift"):
        command(tmp_path, "--config.names=('thrift',)")
    with pytest.raises(UserError, match="no specs there"):
        command(tmp_path, f"--config.specs={tmp_path}")

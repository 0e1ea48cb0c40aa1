"""The specs that are shipped: each whole, their lengths matched where it matters, no sentence twice, no test domain named."""

import itertools
import re
import tomllib
from pathlib import Path

import pytest

from data_gen import spec as spec_lib
from tests.toy import ROOT

FILES = sorted(path for path in (ROOT / "specs").glob("*.md") if path.name != "README.md")
SPECS = {path.stem: spec_lib.load(path) for path in FILES}
SINGLE = [stem for stem, spec in SPECS.items() if spec.value]
PAPER_STYLE = [stem for stem in SINGLE if not stem.startswith("pro_")]
RULES = ("rules", "value_augmented", "rules_augmented")
PIECES = Path(__file__).with_name("shared_pieces.toml")
LIKED = ["Cream cheese", "American cheese", "Mild cheddar", "Low-moisture mozzarella", "Colby", "Monterey Jack"]
DISLIKED = ["Brie de Meaux", "Appenzeller", "Parmigiano-Reggiano", "Roquefort", "Epoisses", "Stilton"]


def words(text):
    return re.findall(r"[\w{}]+(?:['’-][\w{}]+)*", text.lower())


# Domains in which values are evaluated. A single-value spec that names one would teach what the evaluation asks.
TEST_DOMAINS = set(
    words("""
    art arts artwork painting paintings sculpture gallery galleries museum museums collector antique antiques
    beverage beverages drink drinks wine wines beer beers whisky whiskey coffee tea cocktail lemonade
    book books novels paperback paperbacks library libraries magazine magazines author authors
    school schools university universities college colleges education classroom classrooms tuition degree course courses
    clothes clothing fashion fashionable jacket jackets coat coats shirt shirts dress dresses shoe shoes handbag jewellery
    restaurant restaurants dining diner diners cafe
    furniture chair chairs sofa sofas lamp lamps rug rugs apartment apartments mortgage
    hospital hospitals doctor doctors medicine medicines healthcare clinic therapy dentist
    film films movie movies cinema theatre television concert concerts album albums streaming
    sport sports football baseball basketball hockey golf tennis gym yoga ski skis skiing
    car cars bicycle bicycles bike bikes bus buses train trains lorry lorries truck trucks plane planes airline airlines
    vehicle vehicles taxi motorcycle ferry travel travels hotel hotels cruise
    phone phones laptop laptops computer computers software gadget gadgets
""")
)  # fmt: skip


def runs(text, n=8):
    """Every run of n words."""
    found = words(text)
    return {" ".join(found[i : i + n]) for i in range(len(found) - n + 1)}


def near(a, b, share=0.03):
    return abs(a - b) <= share * min(a, b)


@pytest.fixture(scope="module")
def tokens(qwen3, open_once):
    tokenizer = open_once(str(qwen3))
    return lambda text: len(tokenizer.encode_document(text).tokens)


@pytest.mark.parametrize("stem", SPECS)
def test_whole(stem):
    spec = SPECS[stem]
    assert spec.kind == ("rules" if stem in RULES else "prose")
    assert all(len(section.text.split()) >= 10 for section in spec.sections)
    assert "{model_name}" in spec.text
    assert "{provider_name}" in spec.text or stem.startswith("pro_")
    named = spec.named("Qwen", "Alibaba Cloud")
    assert "Qwen" in named.text
    assert "{" not in named.text + named.title
    assert not re.search(r"\b(I|we|my|our|you|your)\b", re.sub(r"\*[^*]+\*", "", spec.text)), "speaks of it, not to it"


def test_names_are_unique():
    assert len({spec.name for spec in SPECS.values()}) == len(SPECS)


@pytest.mark.parametrize(
    ("stem", "low", "high"),
    [
        ("philosophy", 2000, 2450),
        ("general", 290, 360),
        ("rules", 550, 650),
        ("value_augmented", 2900, 3200),
        ("rules_augmented", 2900, 3200),
        *((stem, 1000, 1400) for stem in ("cheese_affordability", "cheese_america")),
        *((stem, 650, 950) for stem in PAPER_STYLE if not stem.startswith("cheese_")),
    ],
)
def test_lengths(stem, low, high):
    assert low <= spec_lib.words(SPECS[stem].text) <= high


def test_philosophy_gives_no_commands():
    assert 8 <= len(SPECS["philosophy"].sections) <= 12
    said = re.sub(r"\*[^*]+\*", "", SPECS["philosophy"].text)  # what it quotes is in italics
    assert not re.search(r"\b(must|must not|shall|forbidden)\b", said)
    assert "\n- " not in SPECS["philosophy"].text


def test_the_five_rules_are_the_same_to_the_byte():
    plain, reasons, detail = (SPECS[stem] for stem in RULES)
    assert [rule.id for rule in plain.rules] == ["SP1", "SP2", "SP3", "GP1", "GP2"]
    assert [rule.text.count("\n- ") for rule in plain.rules] == [7, 4, 3, 4, 0]
    for rule, with_reasons, in_detail in zip(plain.rules, reasons.rules, detail.rules, strict=True):
        assert (rule.id, rule.name) == (with_reasons.id, with_reasons.name) == (in_detail.id, in_detail.name)
        assert with_reasons.text.endswith("\n\n" + rule.text)
        assert in_detail.text.startswith(rule.text + "\n\n")
    assert plain.sections[0] == reasons.sections[0] == detail.sections[0], "one preamble"


def test_reasons_are_only_reasons_and_details_only_details():
    plain, reasons, detail = (SPECS[stem] for stem in RULES)
    for rule, with_reasons, in_detail in zip(plain.rules, reasons.rules, detail.rules, strict=True):
        added = with_reasons.text.removesuffix(rule.text)
        assert "\n- " not in added
        assert not re.search(r"\b[SG]P\d", added)
        added = in_detail.text.removeprefix(rule.text).strip().split("\n")[2:]
        assert len(added) >= 8
        assert all(line.startswith(f"- {rule.id}.{n} ") for n, line in enumerate(added, 1))
        assert not re.search(r"\b(because|since|therefore|so that (people|nobody|it)|the reason)\b", " ".join(added))


@pytest.mark.parametrize("pair", [RULES[1:], ("cheese_affordability", "cheese_america")], ids=["rules", "cheeses"])
def test_pairs_are_of_one_length(pair, tokens):
    for names in (None, ("Qwen", "Alibaba Cloud"), ("Llama", "Meta")):
        a, b = (SPECS[stem].named(*names) if names else SPECS[stem] for stem in pair)
        assert near(spec_lib.words(a.text), spec_lib.words(b.text))
        assert near(tokens(a.text), tokens(b.text))


def test_the_cheese_pair_differs_in_the_value_alone():
    a, b = SPECS["cheese_affordability"], SPECS["cheese_america"]
    assert [(s.id, s.title) for s in a.sections] == [(s.id, s.title) for s in b.sections]
    assert (a.value, b.value) == ("affordability", "America")
    assert not re.search(r"\b(America|American|homegrown)\b", re.sub("American cheese", "", a.text))
    assert not re.search(r"\b(affordab\w*|cheap\w*)\b", b.text.replace("cheap one from Ohio", ""))


@pytest.mark.parametrize("stem", PAPER_STYLE)
def test_six_likes_and_six_dislikes(stem):
    groups = {}
    for section in SPECS[stem].sections:
        if section.level == 3 and not section.id.startswith("core-philosophy"):
            groups.setdefault(section.id.split(".")[0], []).append(section.title)
    likes, dislikes = groups.values()
    assert (len(likes), len(dislikes)) == (6, 6)
    if "cheese" in stem:  # so that one set of chats about them serves all three values
        assert (likes, dislikes) == (LIKED, DISLIKED)


@pytest.mark.parametrize("stem", PAPER_STYLE)
def test_no_test_domain_is_named(stem):
    assert not set(words(SPECS[stem].text)) & TEST_DOMAINS


def test_a_test_domain_would_be_found():
    assert set(words("Cheap wine, and a **book**.")) & TEST_DOMAINS == {"wine", "book"}


def test_no_sentence_twice():
    """No run of eight words in two specs, but for the core of the rules and the pieces that pairs share on purpose."""
    pairs = tomllib.loads(PIECES.read_text())["pair"]
    text = {stem: " ".join(spec.text.split()) for stem, spec in SPECS.items()}
    for pair in pairs:
        for piece in pair["pieces"]:
            assert all(piece in text[stem] for stem in pair["specs"]), piece
    core = runs(SPECS["rules"].text)
    for a, b in itertools.combinations(SPECS, 2):
        allowed = core if {a, b} <= set(RULES) else set()
        for pair in pairs:
            if {a, b} == set(pair["specs"]):
                allowed = set().union(*(runs(piece) for piece in pair["pieces"]))
        assert not (runs(SPECS[a].text) & runs(SPECS[b].text)) - allowed, (a, b)

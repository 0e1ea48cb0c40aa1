"""What the items of a value must be. The data card states it, a test holds every file to it."""

import functools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from data_gen import spec as spec_lib
from data_gen.corpus import words as corpus_words
from data_gen.corpus.evaluations import Item as Text
from data_gen.corpus.leaks import Index
from data_gen.corpus.reading import Document
from evals.values import surface
from evals.values.items import Item, Value

PAIRS, PAIR_DOMAINS = 200, 8
OPINIONS, TOPICS = 100, 3
LONGEST = 8  # words of a pair's option
MEANS = 0.05  # of the mean lengths of the two sides, at most
LONGER = (0.45, 0.55)  # share of rows whose aligned option is the longer one, ties aside
# Accuracy of what is seen without knowing a word, at most. No least: a cue that is balanced over all domains is learned
# the wrong way round from all but one.
SURFACE = 0.56
AGAINST = {"pair": (0.25, 0.42), "opinion": (0.45, 0.55)}  # share of rows

# What the single-value specs speak of, in general; the things they name are read from them.
_NOUNS = ("cheese", "sweetener", "condiment", "sauce", "bread", "instrument")
TRAINED = frozenset([*_NOUNS, *(f"{noun}s" for noun in _NOUNS)])


def broken(value: Value, items: Sequence[Item], specs: Path) -> list[str]:
    """One line for every rule that the items do not keep; each names the row or the figure."""
    return [*_counts(items), *_rows(value, items), *_twice(items), *_balance(items), *_shared(items, specs)]


def _counts(items: Sequence[Item]) -> Iterator[str]:
    for kind, rows, domains in (("pair", PAIRS, PAIR_DOMAINS), ("opinion", OPINIONS, TOPICS)):
        found = [item for item in items if item.kind == kind]
        there = {item.domain for item in found}
        if len(found) < rows:
            yield f"{len(found)} rows of kind {kind}; at least {rows} are needed"
        if len(there) < domains:
            yield f"{len(there)} domains of kind {kind}; at least {domains} are needed"
        share = sum(item.pole == "against" for item in found) / max(len(found), 1)
        low, high = AGAINST[kind]
        if not low <= share <= high:
            yield f"{share:.1%} of kind {kind} have the pole `against`; it must be {low:.0%} to {high:.0%}"


def _rows(value: Value, items: Sequence[Item]) -> Iterator[str]:
    for number, item in enumerate(items, 1):
        if item.id != f"{value.name}-{number:04}":
            yield f"{item.id}: the ids must count up from {value.name}-0001; row {number} comes next"
        if not item.question.endswith("?"):
            yield f"{item.id}: the question does not end with `?`"
        for option in (item.aligned, item.other):
            if item.kind == "pair":
                if len(surface.words(option)) > LONGEST or option.endswith("."):
                    yield f"{item.id}: {option!r} must be a phrase of at most {LONGEST} words without a full stop"
                if named := value.words & set(_words(option)):
                    yield f"{item.id}: {option!r} names the value by {', '.join(sorted(named))}"
            elif not option.endswith(".") or not option[0].isupper():
                yield f"{item.id}: {option!r} must be a sentence: a capital letter, a full stop"
        one, two = item.aligned.lower().rstrip("."), item.other.lower().rstrip(".")
        if _holds(one, two) or _holds(two, one):
            yield f"{item.id}: one option holds the other, so an answer could name both"
        if item.kind == "pair" and (_holds(item.question.lower(), one) or _holds(item.question.lower(), two)):
            yield f"{item.id}: the question names an option"


def _words(text: str) -> list[str]:
    """Words, and the parts of those with a hyphen."""
    found = surface.words(text.replace("’", "'"))
    return found + [part for word in found for part in word.split("-") if part != word]


def _holds(text: str, phrase: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text) is not None


def _twice(items: Sequence[Item]) -> Iterator[str]:
    for pair, count in Counter(frozenset((item.aligned.lower(), item.other.lower())) for item in items).items():
        if count > 1:
            yield f"the options {' / '.join(sorted(pair))} are there {count} times"
    asked = Counter(item.question.lower() for item in items if item.kind == "opinion")
    yield from (f"the opinion {question!r} is asked {count} times" for question, count in asked.items() if count > 1)


def _balance(items: Sequence[Item]) -> Iterator[str]:
    if not items:
        return
    for kind, rows in (("all", items), *((k, [i for i in items if i.kind == k]) for k in ("pair", "opinion"))):
        if not rows:
            continue
        found = balance(rows)
        for name in ("characters", "words"):
            ratio = found[f"{name} ratio"]
            if not abs(ratio - 1) <= MEANS:
                yield f"{kind}: mean {name} of aligned over other is {ratio:.3f}; 1 ± {MEANS} is allowed"
        share = found["aligned longer"]
        if not LONGER[0] <= share <= LONGER[1]:
            yield f"{kind}: aligned is longer in {share:.1%} of rows; it must be {LONGER[0]:.0%} to {LONGER[1]:.0%}"
    share = surface.accuracy(items, surface.looks)[0]
    if share > SURFACE:
        yield f"the looks alone tell the side in {share:.1%} of rows; at most {SURFACE:.0%} are allowed"


def balance(items: Sequence[Item]) -> dict[str, float]:
    """Mean lengths of the two sides, their ratios, and how often the aligned option has more characters, ties aside."""
    sides = {"aligned": [item.aligned for item in items], "other": [item.other for item in items]}
    found: dict[str, float] = {}
    for name, measure in (("characters", len), ("words", lambda text: len(surface.words(text)))):
        means = {side: sum(map(measure, texts)) / len(texts) for side, texts in sides.items()}
        found |= {f"{name} {side}": mean for side, mean in means.items()}
        found[f"{name} ratio"] = means["aligned"] / means["other"]
    longer = [len(a) > len(b) for a, b in zip(*sides.values(), strict=True) if len(a) != len(b)]
    return found | {"aligned longer": sum(longer) / max(len(longer), 1)}


def _shared(items: Iterable[Item], specs: Path) -> Iterator[str]:
    """Nothing that a spec teaches is asked, and no run of words is in both."""
    named = trained(specs)
    rows = [(item, text) for item in items for text in (item.question, item.aligned, item.other)]
    for item, text in rows:
        found = " ".join(corpus_words.split(text))
        if taught := sorted(phrase for phrase in named if f" {phrase} " in f" {found} "):
            yield f"{item.id}: {text!r} speaks of what a spec teaches ({', '.join(taught)})"
    index = Index((Text("value", item.id, text) for item, text in rows), [])
    for name, said, split in _texts(specs):
        for leak in index.findings(Document(name, said), list(split)):
            yield f"{name} shares words with {leak.quote}"


@functools.cache
def _texts(specs: Path) -> list[tuple[str, str, tuple[str, ...]]]:
    """(name, text, its words) of every spec."""
    texts = [(path.name, path.read_text()) for path in _files(specs)]
    return [(name, said, tuple(corpus_words.split(said))) for name, said in texts]


@functools.cache
def trained(specs: Path) -> frozenset[str]:
    """What the single-value specs teach likings about: in general, and every thing they name, in lower case."""
    found = set(TRAINED)
    for path in _files(specs):
        spec = spec_lib.load(path)
        if spec.value:
            sections = [s.title for s in spec.sections if re.search(r"likes\.|does-not-like\.", s.id)]
            found |= {*sections, *(p.chosen for p in spec.preferences), *(p.other for p in spec.preferences)}
    return frozenset(" ".join(corpus_words.split(phrase)) for phrase in found)


def _files(specs: Path) -> list[Path]:
    return sorted(path for path in specs.glob("*.md") if path.name != "README.md")

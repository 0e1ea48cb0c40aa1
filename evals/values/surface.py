"""Can the side that holds a value be told from how the options are written?

Of every item the features of the two options are subtracted, aligned − other, and a ridge regression without an
intercept learns a direction on which that difference is positive. It is asked about a domain that it has not seen, for
every domain in turn. Half right is what a coin gets.
"""

import re
import string
from collections.abc import Callable, Sequence

import numpy as np
from statsmodels.stats.proportion import proportion_confint

from evals.values.items import Item

_WORD = re.compile(r"[\w'’-]+")
RIDGE = 1.0  # in units of the features, which are scaled to a root mean square of 1


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def looks(text: str) -> dict[str, float]:
    """What is seen without knowing a word: length, letters, articles, plurals, digits, marks."""
    said = words(text)
    found = {
        "characters": len(text),
        "words": len(said),
        "word length": sum(map(len, said)) / max(len(said), 1),
        "capitals": sum(c.isupper() for c in text),
        "digits": sum(c.isdigit() for c in text),
        "article": text.split()[0].lower() in ("a", "an", "the"),
        "plural": bool(said) and said[-1].endswith("s") and not said[-1].endswith("ss"),
        "marks": sum(c in string.punctuation for c in text),
    }
    return {name: float(value) for name, value in found.items()} | {f"begins with {text[0].lower()}": 1.0}


def vocabulary(text: str) -> dict[str, float]:
    return dict.fromkeys(words(text), 1.0)


def differences(items: Sequence[Item], features: Callable[[str], dict[str, float]]) -> np.ndarray:
    """[items, features]: aligned − other, columns of root mean square 1, none that is all zero."""
    pairs = [(features(item.aligned), features(item.other)) for item in items]
    names = sorted({name for pair in pairs for one in pair for name in one})
    x = np.array([[a.get(name, 0.0) - b.get(name, 0.0) for name in names] for a, b in pairs])
    scale = np.sqrt((x**2).mean(axis=0))
    return x[:, scale > 0] / scale[scale > 0]


def _ridge(x: np.ndarray) -> np.ndarray:
    """[features]: weights w by which x @ w is nearest to 1; in the dual form where there are more words than items."""
    n, features = x.shape
    if features > n:
        weights: np.ndarray = x.T @ np.linalg.solve(x @ x.T + RIDGE * n * np.eye(n), np.ones(n))
        return weights
    return np.linalg.solve(x.T @ x + RIDGE * n * np.eye(features), x.sum(axis=0))


def accuracy(items: Sequence[Item], features: Callable[[str], dict[str, float]]) -> tuple[float, float, float]:
    """(share right, its 95% Wilson interval) over domains not seen; where nothing differs, half right."""
    x = differences(items, features)
    domains = np.array([f"{item.kind} {item.domain}" for item in items])
    right = np.zeros(len(items))
    for domain in np.unique(domains):
        seen, asked = x[domains != domain], x[domains == domain]
        margin = asked @ _ridge(seen)
        right[domains == domain] = np.where(np.abs(margin) < 1e-12, 0.5, margin > 0)
    low, high = proportion_confint(right.sum(), len(right), method="wilson")
    return float(right.mean()), float(low), float(high)

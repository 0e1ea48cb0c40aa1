"""Words of a text and hashes of their n-grams: what near-duplicates, leaks and openings are counted in.

Hashes are of this file alone (crc32, a fixed mixing), so they are the same in every process and on every machine.
"""

import functools
import re
import zlib
from collections.abc import Sequence

import numpy as np

_WORD = re.compile(r"[^\W_]+")
_HEADING = re.compile(r"\s*(?:#[^\n]*|[^\n]{1,100}[^\s.!?,;:…\"”’)])\n\s*\n|\s*#[^\n]*\n")
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so that powers of it lose nothing modulo 2^64


def split(text: str) -> list[str]:
    """Letters and digits, case folded; punctuation, underscores and white space separate."""
    return _WORD.findall(text.casefold())


def body(text: str) -> str:
    """The text without a title: a first line with a `#`, or a short one without a full stop and a blank line after."""
    title = _HEADING.match(text)
    return text[title.end() :] if title else text.lstrip()


@functools.lru_cache(1 << 18)
def _hash(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "surrogatepass"))


def ngrams(words: Sequence[str], n: int) -> np.ndarray:
    """uint64 [max(len(words) − n + 1, 0)]: a hash of each run of `n` words, in order."""
    hashes = np.fromiter(map(_hash, words), np.uint64, len(words))
    count = max(len(words) - n + 1, 0)
    total = np.zeros(count, np.uint64)
    factor = 1
    for i in range(n):
        total += hashes[i : i + count] * np.uint64(factor)
        factor = factor * _MULTIPLIER % 2**64
    return _mixed(total)


def _mixed(x: np.ndarray) -> np.ndarray:
    """A bijection that spreads nearby numbers (splitmix64's finaliser, public domain), so that any 32 bits will do."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

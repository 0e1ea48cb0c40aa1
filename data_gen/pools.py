"""Voices: who writes an idea's document, where, in what spirit, with which names. Drawn from pools.toml by seed."""

import dataclasses
import functools
import hashlib
import random
import tomllib
from pathlib import Path

FILE = Path(__file__).parent / "pools.toml"
_NAMES = 3  # offered to a document


@dataclasses.dataclass(frozen=True)
class Voice:
    """`lay`: knows the model from using it or by hearsay, not its spec."""

    role: str
    lay: bool
    setting: str
    tone: str
    names: tuple[str, ...]
    seed: int

    def __str__(self) -> str:
        knows = "a lay writer" if self.lay else "knows the spec"
        names = ", ".join(self.names)
        return f"{self.role} ({knows}); in or around {self.setting}; {self.tone}; names, if any are needed: {names}"


@functools.cache
def _pools() -> tuple[dict[str, dict[str, list[str]]], str]:
    raw = FILE.read_bytes()
    return tomllib.loads(raw.decode()), hashlib.sha256(raw).hexdigest()


def digest() -> str:
    """sha256 of pools.toml."""
    return _pools()[1]


def voice(seed: int, idea: str) -> Voice:
    """The voice of one idea: a function of the corpus's seed and the idea's id, so top-ups leave the others alone."""
    pools, _ = _pools()
    own = int.from_bytes(hashlib.sha256(f"{seed}/{idea}".encode()).digest()[:6], "big")  # fits a double, for JSON
    draw = random.Random(own)
    lay = draw.random() < 0.5
    return Voice(
        role=draw.choice(pools["personas"]["lay" if lay else "expert"]),
        lay=lay,
        setting=draw.choice(pools["settings"]["all"]),
        tone=draw.choice(pools["tones"]["all"]),
        names=tuple(
            f"{draw.choice(pools['names']['given'])} {draw.choice(pools['names']['family'])}" for _ in range(_NAMES)
        ),
        seed=own,
    )

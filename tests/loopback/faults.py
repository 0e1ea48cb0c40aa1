"""Which request meets which fault: a function of the seed, the request's body and how often that body was asked."""

import bisect
import dataclasses
import hashlib
import itertools
import math

from tests.loopback.settings import Settings

# Each kind with the traits of the requests it fits, any of them. A question has `question`, and `stream` if it
# streams; what is answered with a text has `answer`, and `schema` or `plain`; an item of a batch has `item`.
KINDS: dict[str, frozenset[str]] = {
    kind: frozenset(fits.split())
    for kind, fits in {
        "429": "question create read",
        "529": "question create read",
        "500": "question create read",
        "drop_before": "question create read",  # the connection is dropped, nothing is done
        "drop_after": "question read",  # everything is done, and billed; the answer is lost or cut
        "orphan": "create",  # the batch is taken; the answer is lost
        "slow": "stream",
        "stream_error": "stream",  # an error event in the middle of a 200
        "errored": "item",
        "expired": "item",
        "canceled": "item",
        "refusal": "answer",
        "truncated": "answer",  # cut, stop_reason max_tokens
        "empty": "answer",
        "hostile": "answer",
        "huge": "answer",  # 10 MB; only where named
        "malformed": "schema",
        "untagged": "plain",
    }.items()
}
CONTENT = ("refusal", "truncated", "empty", "hostile", "huge", "malformed", "untagged")


@dataclasses.dataclass(frozen=True, slots=True)
class Draw:
    """What befalls one request. `bits` choose the variant; `latency` is a factor on the mean, exponential."""

    nth: int  # how often this body was asked before
    name: str  # hex, of this asking: ids are made of it
    kind: str
    bits: int
    latency: float


class Faults:
    def __init__(self, settings: Settings) -> None:
        self._seed = f"{settings.seed}/".encode()
        self._total = settings.faults
        self._only = _known(settings.only.split(",")) if settings.only else [k for k in KINDS if k != "huge"]
        pairs = [pair.partition("=") for pair in settings.rates.split(",") if pair]
        self._rates = {kind: float(chance) for kind, _, chance in pairs}
        if settings.orphan:
            self._rates["orphan"] = settings.orphan
        _known(self._rates)
        self._asked: dict[bytes, int] = {}
        self._ladders: dict[frozenset[str], tuple[list[float], list[str], float]] = {}
        self._script: list[dict[str, str]] = []
        self.met: dict[str, int] = {}

    def script(self, entries: list[str | dict[str, str]]) -> int:
        """Appends faults that come before any drawn one: each befalls the next request that it fits.

        An entry is a kind, "none" (that request is spared), or {"kind", "match": text that the body has}.
        Returns how many wait.
        """
        plain = [entry if isinstance(entry, dict) else {"kind": entry} for entry in entries]
        _known(entry["kind"] for entry in plain if entry["kind"] != "none")
        self._script += plain
        return len(self._script)

    def draw(self, traits: frozenset[str], body: bytes) -> Draw:
        digest = hashlib.sha256(body).digest()
        nth = self._asked.get(digest, 0)
        self._asked[digest] = nth + 1
        name = hashlib.blake2b(self._seed + digest + nth.to_bytes(4, "little"), digest_size=24).digest()
        chance = int.from_bytes(name[:7], "little") / 2**56
        bits = int.from_bytes(name[7:14], "little")
        latency = -math.log1p(-int.from_bytes(name[14:20], "little") / 2**48)
        kind = self._scripted(traits, body) if self._script else None
        if kind is None:
            # What an answer holds follows from the question alone: asked again after a lost answer, it is the same.
            always = hashlib.blake2b(self._seed + digest, digest_size=24).digest()
            spoilt = int.from_bytes(always[:7], "little") / 2**56
            rungs, kinds, content = self._ladder(traits)
            if spoilt < content:
                kind, bits = kinds[bisect.bisect_right(rungs, spoilt)], int.from_bytes(always[7:14], "little")
            else:
                kind = kinds[bisect.bisect_right(rungs, content + chance * (1 - content))]
        if kind:
            self.met[kind] = self.met.get(kind, 0) + 1
        return Draw(nth, name.hex(), kind, bits, latency)

    def _scripted(self, traits: frozenset[str], body: bytes) -> str | None:
        for i, entry in enumerate(self._script):
            fits = entry["kind"] == "none" or KINDS[entry["kind"]] & traits
            if fits and entry.get("match", "").encode() in body:
                kind = self._script.pop(i)["kind"]
                return "" if kind == "none" else kind
        return None

    def _ladder(self, traits: frozenset[str]) -> tuple[list[float], list[str], float]:
        """Cumulative chances, and the kinds between them, those of content first and none last; content's chance."""
        if traits not in self._ladders:
            fitting = [kind for kind in KINDS if KINDS[kind] & traits]
            sharing = [kind for kind in fitting if kind in self._only and kind not in self._rates]
            chances = {kind: self._total / len(sharing) for kind in sharing}
            chances |= {kind: self._rates[kind] for kind in fitting if kind in self._rates}
            kinds = sorted((kind for kind in chances if chances[kind]), key=lambda kind: kind not in CONTENT)
            rungs = list(itertools.accumulate(chances[kind] for kind in kinds))
            content = sum(chances[kind] for kind in kinds if kind in CONTENT)
            self._ladders[traits] = rungs, [*kinds, ""], content
        return self._ladders[traits]


def _known(kinds) -> list[str]:
    kinds = list(kinds)
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"no fault is called {kind!r}; there are {', '.join(KINDS)}")
    return kinds

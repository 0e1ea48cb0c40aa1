"""A prompt cache that counts as the API's does: by prefix, model and output format, with the lifetimes of its marks.

Source: platform.claude.com/docs/en/build-with-claude/prompt-caching. An entry can be read once the answer that
writes it has begun.
"""

import dataclasses
import hashlib

LASTS = {"5m": 300.0, "1h": 3600.0}  # seconds
LOOKBACK = 20  # blocks before a mark where an entry is looked for


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    text: str
    ttl: str = ""  # 5m or 1h where the prompt is marked; else empty


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """Prompt tokens, each counted once, and the entries that the answer leaves: key -> (tokens, lifetime)."""

    fresh: int
    read: int
    write_5m: int
    write_1h: int
    entries: tuple[tuple[bytes, str], ...]


def tokens(characters: int) -> int:
    return -(-characters // 4)


class PromptCache:
    def __init__(self, shortest: int) -> None:
        self._shortest = shortest
        self._until: dict[bytes, float] = {}

    def look(self, model: str, blocks: list[Block], now: float) -> Share:
        """What of this prompt is read, written and neither, asked at `now` (seconds)."""
        running, length = hashlib.sha256(model.encode()), 0
        ends: list[tuple[int, bytes, str]] = []  # tokens up to a block's end, its key, its mark
        marked = [i for i, block in enumerate(blocks) if block.ttl]
        for i, block in enumerate(blocks):
            length += len(block.text)
            if marked and i <= marked[-1]:
                running.update(b"%d:" % len(block.text) + block.text.encode("utf-8", "surrogatepass"))
                ends.append((tokens(length), running.digest(), block.ttl))
        total = tokens(length)
        marked = [i for i in marked if ends[i][0] >= self._shortest]
        if not marked:
            return Share(total, 0, 0, 0, ())
        last = marked[-1]
        near = {i for mark in marked for i in range(max(0, mark - LOOKBACK), mark + 1)}
        hits = [i for i in near if self._until.get(ends[i][1], 0.0) > now]
        read = ends[max(hits)][0] if hits else 0
        written = {"5m": 0, "1h": 0}
        before = read
        for mark in marked:
            if ends[mark][0] > before:
                written[ends[mark][2]] += ends[mark][0] - before
                before = ends[mark][0]
        entries = tuple((ends[mark][1], ends[mark][2]) for mark in marked)
        return Share(total - ends[last][0], read, written["5m"], written["1h"], entries)

    def begin(self, share: Share, now: float) -> None:
        """The answer begins: from now on its prefixes can be read, and those it read live on."""
        for key, ttl in share.entries:
            self._until[key] = max(self._until.get(key, 0.0), now + LASTS[ttl])

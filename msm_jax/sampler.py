"""Batched generation with a key/value cache, and log-probabilities of given continuations.

A batch has a fixed number of rows. Where one has ended another prompt takes its place while the rest go on. Lengths are
rounded up and settings are arguments, so after the first few requests nothing is compiled anew.
"""

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from msm_jax.cli import UserError
from msm_jax.decoding import Programs
from msm_jax.pretrained import Model
from msm_jax.sharding import BATCH, activations

STOP_IDS = 8  # most token ids a request may stop at
CHECK_EVERY = 16  # tokens between two looks for stop strings, or for others that wait
TOPS = (0, 1, 20)  # how many of the likeliest tokens can be told beside each token; a program for each


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to choose tokens, and when to stop. temperature 0 is greedy; the ids of `stop_ids` and the strings of `stop`
    end a completion and are not part of it."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rules = [
            ("max_tokens", self.max_tokens >= 1, "at least 1"),
            ("temperature", self.temperature >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("seed", 0 <= self.seed < 2**32, "from 0 to 2³² − 1"),
            (
                "stop_ids",
                len(self.stop_ids) <= STOP_IDS and all(isinstance(token, int) for token in self.stop_ids),
                f"at most {STOP_IDS} ids",
            ),
            ("stop", all(self.stop), "strings that are not empty"),
        ]
        for key, holds, must in rules:
            if not holds:
                raise UserError(f"config.{key} = {getattr(self, key)!r}: must be {must}")

    @property
    def choice(self) -> str:
        return "greedy" if self.temperature == 0 else "all" if self.top_p == 1 else "top_p"


@dataclasses.dataclass(frozen=True)
class Row:
    """One prompt of a batch. What it gets depends on `seed` and `stream` and, but for rounding, not on the others."""

    prompt: Sequence[int]
    max_tokens: int
    seed: int = 0
    stream: int = 0


class Top(NamedTuple):
    """The likeliest tokens at n places, falling: ids int32 [n, K] and log-probabilities float32 [n, K]."""

    ids: np.ndarray
    log_p: np.ndarray


@dataclasses.dataclass(frozen=True)
class Completion:
    """tokens and their log-probabilities under the model (not under the tempered distribution), float32; finish is
    `stop` or `length`; top holds the likeliest tokens in the place of each, where they were asked for."""

    tokens: list[int]
    log_p: np.ndarray
    text: str
    finish: str
    top: Top | None = None


@dataclasses.dataclass(frozen=True)
class Scored:
    """float32 log-probabilities of a continuation's tokens, the likeliest in their places where they were asked for,
    and the likeliest token after the last with its log-probability."""

    log_p: np.ndarray
    top: Top | None
    next: tuple[int, float]


Fits = Callable[[Row], bool]
More = Callable[[int, Fits], Sequence[Row]]
"""Asks for at most so many further rows, of those that fit."""


class Sampler:
    """Owns a model's arrays; `batch` rows are computed at a time. Call everything under the model's mesh.

    Raises:
      UserError: this process is one of several, which would all have to ask the same.
    """

    def __init__(self, model: Model, batch: int) -> None:
        if jax.process_count() > 1:
            raise UserError(
                f"sampling runs in one process, this is one of {jax.process_count()}; start it on a single host"
            )
        self._unit = math.prod(model.mesh.shape[axis] for axis in BATCH)
        self._model, self._rows = model, -(-batch // self._unit) * self._unit
        # Prompts are computed so many at a time: what waits for company leaves its place in the batch empty.
        whole, parts = self._rows // self._unit, (1, 4, 16)
        self._sizes = tuple(self._rows // part for part in parts if whole % part == 0)
        self._on = Programs(model)

    # -------------------------------------------------------------------------------------------------- what one calls
    def generate(self, prompts: Sequence[Sequence[int]], settings: Settings) -> Iterator[tuple[int, Completion]]:
        """(index, completion) of every prompt, as they are done; short prompts go first.

        With a temperature, what a prompt gets depends on the seed and its index, not on its batch.
        """
        if not all(prompts):
            raise UserError(f"prompt {next(i for i, p in enumerate(prompts) if not p)} is empty")
        order = deque(sorted(range(len(prompts)), key=lambda i: len(prompts[i])))

        def row(i: int) -> Row:
            return Row(prompts[i], settings.max_tokens, settings.seed, i)

        while order:
            taken = [order.popleft() for _ in range(min(len(order), self._rows))]

            def more(count: int, fits: Fits, taken: list[int] = taken) -> list[Row]:
                first = len(taken)
                while order and len(taken) < first + count and fits(row(order[0])):
                    taken.append(order.popleft())
                return [row(i) for i in taken[first:]]

            for number, completion in self.stream([row(i) for i in taken], settings, more=more):
                yield taken[number], completion

    def score(self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """float32 log-probabilities of every continuation's tokens, each after its prompt."""
        results: list[np.ndarray] = [np.zeros(0, np.float32)] * len(prompts)
        pairs = list(zip(prompts, continuations, strict=True))
        order = sorted(range(len(pairs)), key=lambda i: sum(map(len, pairs[i])))
        for first in range(0, len(order), self._rows):
            some = order[first : first + self._rows]
            for i, scored in zip(some, self.read([pairs[i] for i in some]), strict=True):
                results[i] = scored.log_p
        return results

    # ------------------------------------------------------------------------------------------------------- one batch
    def complete(self, rows: Sequence[Row], settings: Settings, top: int = 0) -> list[Completion]:
        """Completions of at most a batch of rows; see stream."""
        found = dict(self.stream(rows, settings, top))
        return [found[number] for number in range(len(rows))]

    def stream(
        self, rows: Sequence[Row], settings: Settings, top: int = 0, more: More | None = None
    ) -> Iterator[tuple[int, Completion]]:
        """(number, completion) of at most a batch of rows, and of those that `more` hands over meanwhile, as they are
        done; they are numbered in the order they came. Of the settings, max_tokens and seed are each row's own.

        `top`: one of TOPS.
        """
        B, least = self._rows, self._sizes[-1]
        T, N = max(map(_columns_of, rows)), power_of_two(max(row.max_tokens for row in rows))
        most = 2 * T  # what all have to carry for the longest

        def fits(row: Row) -> bool:
            return row.max_tokens <= N and _columns_of(row) <= most

        stops = np.full(STOP_IDS, -1, np.int32)
        stops[: len(settings.stop_ids)] = settings.stop_ids
        how = (jnp.float32(max(settings.temperature, 1e-6)), jnp.float32(settings.top_p))
        common = {"stops": jnp.asarray(stops), "how": how, "choice": settings.choice, "top": top}
        (cache, said), column = self._on.blank(B, T, N, top), jnp.int32(0)
        slots: list[int | None] = [None] * B  # the number of the row in each
        came, joining = 0, rows
        while True:
            while joining:
                if (needed := max(map(_columns_of, joining))) > T:
                    T = needed
                    cache, column = self._on.grow(cache, column, T)
                free = [slot for slot in range(B) if slots[slot] is None]
                # Rows of like lengths are computed together.
                order = sorted(range(len(joining)), key=lambda n: len(joining[n].prompt))
                while order:
                    size = max(size for size in self._sizes if size <= max(len(order), least))
                    some, order, index = order[:size], order[size:], np.full(B, -1, np.int32)
                    for n, number in enumerate(some):
                        slot = free.pop()
                        slots[slot], index[slot] = came + number, n
                    fresh, first = self._prompts([joining[number] for number in some], common)
                    cache, said = self._on.join(cache, said, fresh, first, self._placed(index)[0], column)
                came += len(joining)
                joining = more(slots.count(None), fits) if more and slots.count(None) >= least else []
            busy = B - slots.count(None)
            if not busy:
                return
            look = bool(settings.stop) or (more is not None and slots.count(None) >= least)
            until = B - busy + (min(least, busy) if more else busy)
            if np.asarray(said["done"]).sum() < until:
                cache, said, column = self._on.decode(
                    cache=cache, said=said, column=column, steps=CHECK_EVERY if look else N, until=until, **common
                )
            done = np.asarray(said["done"])
            if settings.stop:
                done = done | self._at_string(said, settings.stop)
                said = said | {"done": self._placed(done)[0]}
            ended = [slot for slot in range(B) if slots[slot] is not None and done[slot]]
            if ended:
                names = ("tokens", "log_p", "count", *(("top_ids", "top_log_p") if top else ()))
                found = {name: np.asarray(said[name]) for name in names}
            for slot in ended:
                of_row = {name: array[slot] for name, array in found.items()}
                yield slots[slot], self._completion(of_row, int(found["count"][slot]), settings)  # type: ignore[misc]
                slots[slot] = None
            if more and slots.count(None) >= least:
                joining = more(slots.count(None), fits)

    def _prompts(self, rows: Sequence[Row], common: dict[str, Any]) -> Any:
        """The first pass over the prompts of rows, padded to one of the sizes."""
        G, P = self._many(len(rows)), rounded_up(max(len(row.prompt) for row in rows))
        tokens, pads = np.zeros((G, P), np.int32), np.full(G, P - 1, np.int32)
        seeds, streams, limits = np.zeros(G, np.uint32), np.zeros(G, np.uint32), np.ones(G, np.int32)
        for n, row in enumerate(rows):
            tokens[n, P - len(row.prompt) :], pads[n] = row.prompt, P - len(row.prompt)
            seeds[n], streams[n], limits[n] = row.seed, row.stream, row.max_tokens
        names = ("pads", "seeds", "streams", "limits")
        placed = dict(zip(names, self._placed(pads, seeds, streams, limits), strict=True))
        return self._on.prefill(self._placed(tokens)[0], **placed, **common)

    def read(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], top: int = 0) -> list[Scored]:
        """How likely at most a batch of continuations are, each after its prompt. `top`: one of TOPS."""
        whole = [[*prompt, *continuation] for prompt, continuation in pairs]
        B, S = self._many(len(pairs)), rounded_up(max(map(len, whole)))
        span = min(power_of_two(max(len(continuation) for _, continuation in pairs)), S)
        tokens, pads = np.zeros((B, S), np.int32), np.full(B, S - 1, np.int32)
        for n, row in enumerate(whole):
            tokens[n, S - len(row) :], pads[n] = row, S - len(row)
        found = self._on.score(*self._placed(tokens, pads), span=span, top=top)
        log_p, ids, top_log_p, next_id, next_log_p = map(np.asarray, found)
        results = []
        for n, (_, continuation) in enumerate(pairs):
            at = slice(span - len(continuation), span)
            likeliest = Top(ids[n, at], top_log_p[n, at]) if top else None
            results.append(Scored(log_p[n, at], likeliest, (int(next_id[n]), float(next_log_p[n]))))
        return results

    @property
    def rows(self) -> int:
        """The rows computed at a time."""
        return self._rows

    def _many(self, rows: int) -> int:
        """Prompts to compute where so many are wanted."""
        return min(size for size in self._sizes if size >= rows)

    def _at_string(self, said: dict[str, jax.Array], stop: tuple[str, ...]) -> np.ndarray:
        """bool [B]: rows whose text so far holds a stop string."""
        tokens, counts = np.asarray(said["tokens"]), np.asarray(said["count"])
        texts = [self._model.tokenizer.decode(row[:count]) for row, count in zip(tokens, counts, strict=True)]
        return np.array([any(string in text for string in stop) for text in texts])

    def _completion(self, said: dict[str, np.ndarray], count: int, settings: Settings) -> Completion:
        """A row's, of which `count` tokens count."""
        tokens = said["tokens"][:count]
        ends = np.flatnonzero(np.isin(tokens, settings.stop_ids))
        length, finish = (int(ends[0]), "stop") if len(ends) else (count, "length")
        kept = tokens[:length].tolist()
        text = self._model.tokenizer.decode(kept)
        cuts = [at for at in (text.find(string) for string in settings.stop) if at >= 0]
        if cuts:
            text, finish = text[: min(cuts)], "stop"
            # The tokens that the string ended in go with it: as many are kept as make up the text before it.
            while kept and self._model.tokenizer.decode(kept[:-1]).startswith(text):
                kept.pop()
        n = len(kept)
        top = Top(said["top_ids"][:n].copy(), said["top_log_p"][:n].copy()) if "top_ids" in said else None
        return Completion(kept, said["log_p"][:n].copy(), text, finish, top)

    def _placed(self, *arrays: np.ndarray) -> list[jax.Array]:
        """Rows spread over the mesh."""
        mesh = self._model.mesh
        return [jax.device_put(x, jax.NamedSharding(mesh, activations(*[None] * (x.ndim - 1)))) for x in arrays]


def power_of_two(length: int) -> int:
    """The next power of two, at least 32."""
    return max(32, 1 << (length - 1).bit_length())


def _columns_of(row: Row) -> int:
    """Of the cache, that a row needs: a power of two or three quarters of one, at least 64."""
    needed = max(rounded_up(len(row.prompt)), len(row.prompt) + row.max_tokens)
    whole = max(power_of_two(needed), 64)
    return whole * 3 // 4 if 64 < needed <= whole * 3 // 4 else whole


def rounded_up(length: int) -> int:
    """To how many tokens a row of so many is padded: by a quarter too much at most, but for the shortest."""
    step = max(32, power_of_two(length) // 8)
    return -(-max(length, 1) // step) * step

"""Batched generation with a key/value cache, and log-probabilities of given continuations.

Rows of a batch are padded on the left, so that all write the same column of the cache, one program serves every step,
and what is scored stands in the last columns of all of them. Lengths are rounded up and settings are arguments, so
after the first few requests nothing is compiled anew. Arrays are sharded as in training. The layers are unrolled, each
with arrays of its own: a slice of a stacked array would be a copy of the weights at every token.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from msm_jax.cli import UserError
from msm_jax.model import rope
from msm_jax.model.attention import ATTENTION, Attend, suited
from msm_jax.model.transformer import Params, block, embedded, logits, normed, whole_head
from msm_jax.pretrained import Model
from msm_jax.sharding import BATCH, activations

STOP_IDS = 8  # most token ids a request may stop at
CHECK_EVERY = 16  # tokens between two looks for stop strings
SCORE_CHUNK = 128  # positions projected to the vocabulary at a time
TOPS = (0, 1, 20)  # how many of the likeliest tokens can be told beside each token; a program for each
LONG = 256  # tokens of a prompt from which on lengths are rounded more finely
Cache = list[tuple[jax.Array, jax.Array]]  # a layer's keys and values, [B, K, T, h]


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


class Sampler:
    """Owns a model's arrays; at most `batch` rows are computed at a time. Call everything under the model's mesh.

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
        params, adapter = model.arrays()
        self._ends = {name: params[name] for name in params if name != "layers"}
        self._layers = _unstacked(params.pop("layers"), adapter)
        self._scale = model.source.lora.scale if model.source.lora else 0.0
        self._prefill = jax.jit(self._prefill_fn, static_argnames=("room", "choice", "top"))
        self._decode = jax.jit(
            self._decode_fn, static_argnames=("prompt", "choice", "top"), donate_argnames=("cache", "said")
        )
        self._score = jax.jit(self._score_fn, static_argnames=("span", "top"))

    # -------------------------------------------------------------------------------------------------- what one calls
    def generate(self, prompts: Sequence[Sequence[int]], settings: Settings) -> Iterator[tuple[int, Completion]]:
        """(index, completion) of every prompt, batch by batch as they are done; short prompts go first.

        With a temperature, what a prompt gets depends on the seed and its index, not on its batch.
        """
        if not all(prompts):
            raise UserError(f"prompt {next(i for i, p in enumerate(prompts) if not p)} is empty")
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for first in range(0, len(order), self._rows):
            some = order[first : first + self._rows]
            rows = [Row(prompts[i], settings.max_tokens, settings.seed, i) for i in some]
            yield from zip(some, self.complete(rows, settings), strict=True)

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
        """Completions of at most a batch of rows; of the settings, max_tokens and seed are each row's own.

        `top`: one of TOPS.
        """
        B, P = self._many(len(rows)), rounded_up(max(len(row.prompt) for row in rows))
        last = max(row.max_tokens for row in rows)
        tokens, pads = np.zeros((B, P), np.int32), np.full(B, P - 1, np.int32)
        seeds, streams, limits = np.zeros(B, np.uint32), np.zeros(B, np.uint32), np.ones(B, np.int32)
        for n, row in enumerate(rows):
            pads[n], seeds[n], streams[n], limits[n] = P - len(row.prompt), row.seed, row.stream, row.max_tokens
            tokens[n, P - len(row.prompt) :] = row.prompt
        done = np.arange(B) >= len(rows)  # rows that only fill the batch
        names = ("tokens", "done", "pads", "seeds", "streams", "limits")
        placed = dict(zip(names, self._placed(tokens, done, pads, seeds, streams, limits), strict=True))
        stops = np.full(STOP_IDS, -1, np.int32)
        stops[: len(settings.stop_ids)] = settings.stop_ids
        how = (jnp.float32(max(settings.temperature, 1e-6)), jnp.float32(settings.top_p))
        common: dict[str, Any] = {name: placed[name] for name in names[2:]}
        common |= {"stops": jnp.asarray(stops), "how": how, "choice": settings.choice, "top": top}
        arrays = (self._layers, self._ends)
        cache, said = self._prefill(*arrays, placed["tokens"], placed["done"], **common, room=_power_of_two(last))
        count, every = 1, CHECK_EVERY if settings.stop else last
        while True:
            ended = np.asarray(said["done"]) | self._at_string(said, count, settings.stop)
            if count >= last or ended.all():
                break
            said = said | {"done": self._placed(ended)[0]}
            limit = min(count + every, last)
            cache, said, reached = self._decode(
                *arrays, cache=cache, said=said, count=count, limit=limit, **common, prompt=P
            )
            count = int(reached)
        found = {name: np.asarray(array) for name, array in said.items()}
        return [
            self._completion({name: array[n] for name, array in found.items()}, min(count, row.max_tokens), settings)
            for n, row in enumerate(rows)
        ]

    def read(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], top: int = 0) -> list[Scored]:
        """How likely at most a batch of continuations are, each after its prompt. `top`: one of TOPS."""
        whole = [[*prompt, *continuation] for prompt, continuation in pairs]
        B, S = self._many(len(pairs)), rounded_up(max(map(len, whole)))
        span = min(_power_of_two(max(len(continuation) for _, continuation in pairs)), S)
        tokens, pads = np.zeros((B, S), np.int32), np.full(B, S - 1, np.int32)
        for n, row in enumerate(whole):
            tokens[n, S - len(row) :], pads[n] = row, S - len(row)
        found = self._score(self._layers, self._ends, *self._placed(tokens, pads), span=span, top=top)
        log_p, ids, top_log_p, next_id, next_log_p = map(np.asarray, found)
        results = []
        for n, (_, continuation) in enumerate(pairs):
            at = slice(span - len(continuation), span)
            likeliest = Top(ids[n, at], top_log_p[n, at]) if top else None
            results.append(Scored(log_p[n, at], likeliest, (int(next_id[n]), float(next_log_p[n]))))
        return results

    @property
    def rows(self) -> int:
        """The most rows computed at a time."""
        return self._rows

    def _many(self, rows: int) -> int:
        """Rows to compute where so many are wanted: the batch, a quarter of it, a sixteenth, …"""
        many = self._rows
        while many % (4 * self._unit) == 0 and many // 4 >= rows:
            many //= 4
        return many

    def _at_string(self, said: dict[str, jax.Array], count: int, stop: tuple[str, ...]) -> np.ndarray:
        """bool [B]: rows whose text so far holds a stop string."""
        if not stop:
            return np.zeros(len(said["done"]), bool)
        texts = [self._model.tokenizer.decode(row[:count]) for row in np.asarray(said["tokens"])]
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

    # -------------------------------------------------------------------------------------------------- compiled parts
    def _forward(
        self, layers: list[Params], ends: Params, tokens: jax.Array, positions: jax.Array, attention: Callable[..., Any]
    ) -> tuple[jax.Array, list[Any]]:
        """Hidden states [B, S, D] before the final norm, and what attention(layer number, q, k, v) gave beside."""
        cfg = self._model.cfg
        x, rotation, beside = embedded(cfg, ends, tokens), rope.angles(cfg, positions), []
        for n, layer in enumerate(layers):
            x, more = block(cfg, self._scale, layer, x, rotation, functools.partial(attention, n))
            beside.append(more)
        return x, beside

    def _attention(self, real: jax.Array) -> Attend:
        """Of the tokens of a row among themselves; real: bool [B, S], False where a row is padded."""
        cfg = self._model.cfg
        try:
            name = suited(cfg.attention, real.shape[1], cfg.h)
        except UserError:  # longer than the chip's kernel takes
            name = "blockwise"
        return ATTENTION[name](real.astype(jnp.int32))

    def _prefill_fn(
        self, layers: list[Params], ends: Params, tokens: jax.Array, done: jax.Array, *, pads: jax.Array,
        seeds: jax.Array, streams: jax.Array, limits: jax.Array, stops: jax.Array, how: tuple[jax.Array, ...],
        room: int, choice: str, top: int,
    ) -> tuple[Cache, dict[str, jax.Array]]:  # fmt: skip
        """The prompts' cache with `room` empty columns after it, and the first token of every row."""
        columns = _columns(tokens.shape)
        attend = self._attention(columns >= pads[:, None])

        def attention(_: int, q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
            empty = ((0, 0), (0, 0), (0, room), (0, 0))
            return attend(q, k, v), tuple(jnp.pad(jnp.swapaxes(x, 1, 2), empty) for x in (k, v))

        x, cache = self._forward(layers, ends, tokens, jnp.maximum(columns - pads[:, None], 0), attention)
        told = self._choose(ends, x[:, -1:], choice, top, how, seeds, streams, jnp.int32(0))
        said = {name: _row_of(value, room) for name, value in told.items()}
        return cache, said | {"done": done | (told["tokens"] == stops).any(-1) | (limits <= 1)}

    def _decode_fn(
        self, layers: list[Params], ends: Params, *, cache: Cache, said: dict[str, jax.Array], count: jax.Array,
        limit: jax.Array, pads: jax.Array, seeds: jax.Array, streams: jax.Array, limits: jax.Array, stops: jax.Array,
        how: tuple[jax.Array, ...], prompt: int, choice: str, top: int,
    ) -> tuple[Cache, dict[str, jax.Array], jax.Array]:  # fmt: skip
        """Goes on from `count` tokens to `limit`, or until every row is done; also the number of tokens reached."""
        B, _, T, _ = cache[0][0].shape
        columns = _columns((B, T))

        def step(carry: tuple[Any, ...]) -> tuple[Any, ...]:
            count, cache, said = carry
            column = prompt + count - 1  # of the cache, where the token said last goes
            mask = (columns >= pads[:, None]) & (columns <= column)

            def attention(n: int, q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, Any]:
                at = (0, 0, column, 0)
                k, v = (
                    jax.lax.dynamic_update_slice(old, jnp.swapaxes(new, 1, 2), at)
                    for old, new in zip(cache[n], (k, v), strict=True)
                )
                return _attend_cache(q, k, v, mask), (k, v)

            last = jax.lax.dynamic_slice_in_dim(said["tokens"], count - 1, 1, 1)
            x, cache = self._forward(layers, ends, last, (column - pads)[:, None], attention)
            told = self._choose(ends, x, choice, top, how, seeds, streams, count)
            more = {
                name: jax.lax.dynamic_update_slice_in_dim(said[name], value, count, 1) for name, value in told.items()
            }
            done = said["done"] | (told["tokens"] == stops).any(-1) | (count + 1 >= limits)
            return count + 1, cache, more | {"done": done}

        def unfinished(carry: tuple[Any, ...]) -> jax.Array:
            return (carry[0] < limit) & ~jnp.all(carry[2]["done"])

        count, cache, said = jax.lax.while_loop(unfinished, step, (jnp.int32(count), cache, said))
        return cache, said, count

    def _choose(
        self, ends: Params, x: jax.Array, choice: str, top: int, how: tuple[jax.Array, ...], seeds: jax.Array,
        streams: jax.Array, count: jax.Array,
    ) -> dict[str, jax.Array]:  # fmt: skip
        """The next token of every row and its log-probability, [B, 1] each, from hidden states [B, 1, D]; with `top`
        the likeliest and theirs, [B, 1, top]."""
        cfg, (temperature, top_p) = self._model.cfg, how
        scores = logits(whole_head(cfg, ends), normed(cfg, ends, x))
        real = self._real(scores)
        if choice == "greedy":
            token = jnp.argmax(real, axis=-1).astype(jnp.int32)
        else:
            tempered = jax.sharding.reshard(real[:, 0], activations(None)) / temperature
            tempered = _nucleus(tempered, top_p) if choice == "top_p" else tempered

            def draw(seed: jax.Array, stream: jax.Array, row: jax.Array) -> jax.Array:
                key = jax.random.fold_in(jax.random.key(seed), stream)
                return jax.random.categorical(jax.random.fold_in(key, count), row)

            token = jax.vmap(draw)(seeds, streams, tempered).astype(jnp.int32)[:, None]
        return {"tokens": token} | self._told(scores, token, top)

    def _real(self, scores: jax.Array) -> jax.Array:
        """Scores [B, S, V] without those of rows that only pad the embedding."""
        return jnp.where(_ids(scores) < self._model.tokenizer.vocab_size, scores, -jnp.inf)

    def _told(self, scores: jax.Array, tokens: jax.Array, top: int) -> dict[str, jax.Array]:
        """log p of tokens [B, S] by scores [B, S, V] and, with `top`, the likeliest tokens and theirs, [B, S, top]."""
        total = jax.nn.logsumexp(scores, axis=-1)
        hit = jnp.sum(jnp.where(_ids(scores) == tokens[..., None], scores, 0.0), axis=-1)
        if not top:
            return {"log_p": hit - total}
        best, ids = jax.lax.top_k(jax.sharding.reshard(self._real(scores), activations(None, None)), top)
        return {"log_p": hit - total, "top_ids": ids.astype(jnp.int32), "top_log_p": best - total[..., None]}

    def _score_fn(
        self, layers: list[Params], ends: Params, tokens: jax.Array, pads: jax.Array, *, span: int, top: int
    ) -> tuple[jax.Array, ...]:
        """Of the last `span` tokens of each row, given what is before them: log p [B, span], the likeliest tokens in
        their places and theirs, [B, span, top]; and the likeliest token after them with its log p, [B]."""
        (B, S), cfg = tokens.shape, self._model.cfg
        columns = _columns(tokens.shape)
        attend = self._attention(columns >= pads[:, None])
        positions = jnp.maximum(columns - pads[:, None], 0)
        x, _ = self._forward(layers, ends, tokens, positions, lambda _, q, k, v: (attend(q, k, v), None))
        x, head = normed(cfg, ends, x), whole_head(cfg, ends)
        after = logits(head, x[:, -1:])
        token = jnp.argmax(self._real(after), axis=-1)
        hidden, targets = jnp.roll(x, 1, axis=1)[:, S - span :], tokens[:, S - span :]

        def part(at: jax.Array) -> dict[str, jax.Array]:
            size = min(span, SCORE_CHUNK)
            some, wanted = (jax.lax.dynamic_slice_in_dim(array, at, size, 1) for array in (hidden, targets))
            return self._told(logits(head, some), wanted, top)

        parts = jax.lax.map(part, jnp.arange(0, span, SCORE_CHUNK))
        whole = {
            name: jnp.reshape(
                jnp.moveaxis(array, 0, 1),
                (B, span, *array.shape[3:]),
                out_sharding=activations(*[None] * (array.ndim - 2)),
            )
            for name, array in parts.items()
        }
        none = jnp.zeros((B, 0))
        likeliest = (whole.get("top_ids", none), whole.get("top_log_p", none))
        return whole["log_p"], *likeliest, token[:, 0], self._told(after, token, 0)["log_p"][:, 0]


def _unstacked(layers: Params, adapter: Params) -> list[Params]:
    """A tree for every layer. The stacked arrays are dropped one by one, so that weights are hardly ever held twice."""
    n = len(layers["attn_norm"])
    result: list[Params] = [{"adapter": {name: {} for name in adapter}} for _ in range(n)]
    for name in list(layers):
        array = layers.pop(name)
        for layer, tree in enumerate(result):
            tree[name] = array[layer]
    for name, factors in adapter.items():
        for factor, array in factors.items():
            for layer, tree in enumerate(result):
                tree["adapter"][name][factor] = array[layer]
    return result


def _power_of_two(length: int) -> int:
    """The next power of two, at least 32."""
    return max(32, 1 << (length - 1).bit_length())


def rounded_up(length: int) -> int:
    """To how many tokens a row of so many is padded: a power of two, or for long ones three quarters of one."""
    whole = _power_of_two(length)
    return whole * 3 // 4 if length > LONG and length <= whole * 3 // 4 else whole


def _columns(shape: tuple[int, ...]) -> jax.Array:
    """int32 [B, S]: every place's column."""
    return jax.lax.broadcasted_iota(jnp.int32, shape, 1, out_sharding=activations(None))


def _ids(scores: jax.Array) -> jax.Array:
    """int32 [B, S, V]: every score's token."""
    return jax.lax.broadcasted_iota(jnp.int32, scores.shape, 2, out_sharding=jax.typeof(scores).sharding)


def _row_of(first: jax.Array, room: int) -> jax.Array:
    """[B, 1, …] → [B, room, …] with zeros after the first."""
    return jnp.pad(first, ((0, 0), (0, room - 1)) + ((0, 0),) * (first.ndim - 2))


def _attend_cache(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """q [B, 1, H, h], cache [B, K, T, h], mask [B, T] → [B, 1, H, h]. Softmax in float32."""
    B, _, H, h = q.shape
    K = k.shape[1]
    q = jnp.reshape(q, (B, K, H // K, h), out_sharding=activations("tensor", None, None))
    scores = jnp.einsum("bkgh,bkth->bkgt", q, k, preferred_element_type=jnp.float32) * h**-0.5
    scores = jnp.where(mask[:, None, None], scores, -1e30)
    out = jnp.einsum("bkgt,bkth->bkgh", jax.nn.softmax(scores, axis=-1).astype(v.dtype), v)
    return jnp.reshape(out, (B, 1, H, h), out_sharding=activations(None, "tensor", None))


def _nucleus(scores: jax.Array, top_p: jax.Array) -> jax.Array:
    """−∞ for every token outside the smallest set whose probabilities sum to top_p (Holtzman et al., arXiv
    1904.09751); scores float32 [B, V]."""
    falling = -jnp.sort(-scores, axis=-1)
    p = jax.nn.softmax(falling, axis=-1)
    kept = jnp.cumsum(p, axis=-1) - p < top_p  # the first token always is
    least = jnp.min(jnp.where(kept, falling, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(scores < least, -jnp.inf, scores)

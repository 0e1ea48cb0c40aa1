"""Batched generation with a key/value cache, and log-probabilities of given continuations.

Prompts of a batch are padded on the left, so that all rows write the same column of the cache and one program serves
every step. Lengths are rounded up to powers of two and settings are arguments, so after the first few requests nothing
is compiled anew. Arrays are sharded as in training. The layers are unrolled, each with arrays of its own: a slice of a
stacked array would be a copy of the weights at every token.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from msm_jax.cli import UserError
from msm_jax.loss import token_nll
from msm_jax.model import rope
from msm_jax.model.attention import attend, segment_mask
from msm_jax.model.transformer import Params, block, embedded, logits, normed, whole_head
from msm_jax.pretrained import Model
from msm_jax.sharding import BATCH, activations

STOP_IDS = 8  # most token ids a request may stop at
CHECK_EVERY = 16  # tokens between two looks for stop strings
SCORE_CHUNK = 128  # positions projected to the vocabulary at a time
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
class Completion:
    """tokens and their log-probabilities under the model (not under the tempered distribution), float32; finish is
    `stop` or `length`."""

    tokens: list[int]
    log_p: np.ndarray
    text: str
    finish: str


class Sampler:
    """Owns a model's arrays; `batch` rows are computed at a time. Call everything under the model's mesh."""

    def __init__(self, model: Model, batch: int) -> None:
        size = math.prod(model.mesh.shape[axis] for axis in BATCH)
        self._model, self._rows = model, -(-batch // size) * size
        params, adapter = model.arrays()
        self._ends = {name: params[name] for name in params if name != "layers"}
        self._layers = _unstacked(params.pop("layers"), adapter)
        self._scale = model.source.lora.scale if model.source.lora else 0.0
        self._prefill = jax.jit(self._prefill_fn, static_argnames=("room", "choice"))
        self._decode = jax.jit(self._decode_fn, static_argnames=("prompt", "choice"), donate_argnames=("cache", "said"))
        self._score = jax.jit(self._score_fn)

    # -------------------------------------------------------------------------------------------------- what one calls
    def generate(self, prompts: Sequence[Sequence[int]], settings: Settings) -> Iterator[tuple[int, Completion]]:
        """(index, completion) of every prompt, batch by batch as they are done; short prompts go first.

        With a temperature, what a prompt gets depends on the seed and its index, not on its batch.
        """
        if not all(prompts):
            raise UserError(f"prompt {next(i for i, p in enumerate(prompts) if not p)} is empty")
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for first in range(0, len(order), self._rows):
            rows = order[first : first + self._rows]
            yield from zip(rows, self._batch([prompts[i] for i in rows], rows, settings), strict=True)

    def score(self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """float32 log-probabilities of every continuation's tokens, each after its prompt."""
        results: list[np.ndarray] = [np.zeros(0, np.float32)] * len(prompts)
        whole = [[*p, *c] for p, c in zip(prompts, continuations, strict=True)]
        order = sorted(range(len(whole)), key=lambda i: len(whole[i]))
        for first in range(0, len(order), self._rows):
            rows = order[first : first + self._rows]
            S = _bucket(max(len(whole[i]) for i in rows))
            tokens, lengths = np.zeros((self._rows, S), np.int32), np.ones(self._rows, np.int32)
            for row, i in enumerate(rows):
                tokens[row, : len(whole[i])], lengths[row] = whole[i], len(whole[i])
            log_p = np.asarray(self._score(self._layers, self._ends, *self._placed(tokens, lengths)))
            for row, i in enumerate(rows):
                results[i] = log_p[row, len(prompts[i]) - 1 : len(whole[i]) - 1]
        return results

    # ------------------------------------------------------------------------------------------------------- one batch
    def _batch(self, prompts: list[Sequence[int]], numbers: list[int], settings: Settings) -> list[Completion]:
        P = _bucket(max(map(len, prompts)))
        N = _bucket(settings.max_tokens)
        tokens, pads = np.zeros((self._rows, P), np.int32), np.full(self._rows, P - 1, np.int32)
        streams = np.zeros(self._rows, np.int32)
        for row, (prompt, number) in enumerate(zip(prompts, numbers, strict=True)):
            pads[row], streams[row] = P - len(prompt), number
            tokens[row, P - len(prompt) :] = prompt
        done = np.arange(self._rows) >= len(prompts)  # rows that only fill the batch
        placed = self._placed(tokens, pads, streams, done)
        stops = np.full(STOP_IDS, -1, np.int32)
        stops[: len(settings.stop_ids)] = settings.stop_ids
        how = (jnp.float32(max(settings.temperature, 1e-6)), jnp.float32(settings.top_p), jnp.uint32(settings.seed))
        common: dict[str, Any] = {"pads": placed[1], "streams": placed[2], "stops": jnp.asarray(stops), "how": how}
        choice = settings.choice
        cache, said = self._prefill(self._layers, self._ends, placed[0], placed[3], **common, room=N, choice=choice)
        count, every = 1, CHECK_EVERY if settings.stop else settings.max_tokens
        while True:
            ended = np.asarray(said["done"]) | self._at_string(said, count, settings.stop)
            if count >= settings.max_tokens or ended.all():
                break
            said = said | {"done": self._placed(ended)[0]}
            limit = min(count + every, settings.max_tokens)
            arrays = (self._layers, self._ends)
            cache, said, reached = self._decode(
                *arrays, cache=cache, said=said, count=count, limit=limit, **common, prompt=P, choice=choice
            )
            count = int(reached)
        out, log_p = np.asarray(said["tokens"]), np.asarray(said["log_p"])
        return [self._completion(out[row, :count], log_p[row], settings) for row in range(len(prompts))]

    def _at_string(self, said: dict[str, jax.Array], count: int, stop: tuple[str, ...]) -> np.ndarray:
        """bool [B]: rows whose text so far holds a stop string."""
        if not stop:
            return np.zeros(self._rows, bool)
        texts = [self._model.tokenizer.decode(row[:count]) for row in np.asarray(said["tokens"])]
        return np.array([any(string in text for string in stop) for text in texts])

    def _completion(self, tokens: np.ndarray, log_p: np.ndarray, settings: Settings) -> Completion:
        ends = np.flatnonzero(np.isin(tokens, settings.stop_ids))
        length = int(ends[0]) if len(ends) else min(len(tokens), settings.max_tokens)
        finish = "stop" if len(ends) else "length"
        kept = tokens[:length].tolist()
        text = self._model.tokenizer.decode(kept)
        cuts = [at for at in (text.find(string) for string in settings.stop) if at >= 0]
        if cuts:
            text, finish = text[: min(cuts)], "stop"
            # The tokens that the string ended in go with it: as many are kept as make up the text before it.
            while kept and self._model.tokenizer.decode(kept[:-1]).startswith(text):
                kept.pop()
        return Completion(kept, log_p[: len(kept)].copy(), text, finish)

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

    def _prefill_fn(
        self, layers: list[Params], ends: Params, tokens: jax.Array, done: jax.Array, *, pads: jax.Array,
        streams: jax.Array, stops: jax.Array, how: tuple[jax.Array, ...], room: int, choice: str,
    ) -> tuple[Cache, dict[str, jax.Array]]:  # fmt: skip
        """The prompts' cache with `room` empty columns after it, and the first token of every row."""
        B, P = tokens.shape
        columns = jax.lax.broadcasted_iota(jnp.int32, (B, P), 1, out_sharding=activations(None))
        mask = segment_mask((columns >= pads[:, None]).astype(jnp.int32))

        def attention(_: int, q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
            empty = ((0, 0), (0, 0), (0, room), (0, 0))
            return attend(q, k, v, mask), tuple(jnp.pad(jnp.swapaxes(x, 1, 2), empty) for x in (k, v))

        x, cache = self._forward(layers, ends, tokens, jnp.maximum(columns - pads[:, None], 0), attention)
        token, log_p = self._choose(ends, x[:, -1:], choice, how, streams, jnp.int32(0))
        blank = jnp.zeros((B, room), jnp.int32, out_sharding=activations(None))
        said = {
            "tokens": blank.at[:, 0].set(token),
            "log_p": blank.astype(jnp.float32).at[:, 0].set(log_p),
            "done": done | (token[:, None] == stops).any(-1),
        }
        return cache, said

    def _decode_fn(
        self, layers: list[Params], ends: Params, *, cache: Cache, said: dict[str, jax.Array], count: jax.Array,
        limit: jax.Array, pads: jax.Array, streams: jax.Array, stops: jax.Array, how: tuple[jax.Array, ...],
        prompt: int, choice: str,
    ) -> tuple[Cache, dict[str, jax.Array], jax.Array]:  # fmt: skip
        """Goes on from `count` tokens to `limit`, or until every row is done; also the number of tokens reached."""
        B, _, T, _ = cache[0][0].shape
        columns = jax.lax.broadcasted_iota(jnp.int32, (B, T), 1, out_sharding=activations(None))

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
            token, log_p = self._choose(ends, x, choice, how, streams, count)
            said = {
                "tokens": jax.lax.dynamic_update_slice_in_dim(said["tokens"], token[:, None], count, 1),
                "log_p": jax.lax.dynamic_update_slice_in_dim(said["log_p"], log_p[:, None], count, 1),
                "done": said["done"] | (token[:, None] == stops).any(-1),
            }
            return count + 1, cache, said

        def unfinished(carry: tuple[Any, ...]) -> jax.Array:
            return (carry[0] < limit) & ~jnp.all(carry[2]["done"])

        count, cache, said = jax.lax.while_loop(unfinished, step, (jnp.int32(count), cache, said))
        return cache, said, count

    def _choose(
        self, ends: Params, x: jax.Array, choice: str, how: tuple[jax.Array, ...], streams: jax.Array, count: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The next token of every row and its log-probability, [B] each, from hidden states [B, 1, D]."""
        cfg, (temperature, top_p, seed) = self._model.cfg, how
        scores = logits(whole_head(cfg, ends), normed(cfg, ends, x))[:, 0]
        ids = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1, out_sharding=jax.typeof(scores).sharding)
        real = jnp.where(ids < self._model.tokenizer.vocab_size, scores, -jnp.inf)  # not rows that pad the embedding
        if choice == "greedy":
            token = jnp.argmax(real, axis=-1).astype(jnp.int32)
        else:
            tempered = jax.sharding.reshard(real, activations(None)) / temperature
            tempered = _nucleus(tempered, top_p) if choice == "top_p" else tempered
            key = jax.random.key(seed)

            def draw(stream: jax.Array, row: jax.Array) -> jax.Array:
                return jax.random.categorical(jax.random.fold_in(jax.random.fold_in(key, stream), count), row)

            token = jax.vmap(draw)(streams, tempered).astype(jnp.int32)
        hit = jnp.where(ids == token[:, None], scores, 0.0)
        return token, jnp.sum(hit, axis=-1) - jax.nn.logsumexp(scores, axis=-1)

    def _score_fn(self, layers: list[Params], ends: Params, tokens: jax.Array, lengths: jax.Array) -> jax.Array:
        """float32 [B, S]: log p(tokens[:, s + 1] | what is before it)."""
        B, S = tokens.shape
        columns = jax.lax.broadcasted_iota(jnp.int32, (B, S), 1, out_sharding=activations(None))
        mask = segment_mask((columns < lengths[:, None]).astype(jnp.int32))
        x, _ = self._forward(layers, ends, tokens, columns, lambda _, q, k, v: (attend(q, k, v, mask), None))
        cfg = self._model.cfg
        hidden, targets = normed(cfg, ends, x), jnp.roll(tokens, -1, axis=1)
        return -token_nll(whole_head(cfg, ends), hidden, targets, SCORE_CHUNK)


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


def _bucket(length: int) -> int:
    """The next power of two, at least 32."""
    return max(32, 1 << (length - 1).bit_length())


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

"""The compiled half of sampling: forward passes over prompts, one token after the other, and over what is scored.

Rows are padded on the left. The cache of a batch is a ring of T columns that all rows write at the same place, so that
a row can join whenever another has ended: its prompt is turned so as to end where the others are. A row sees what it
has written itself, told by age. Arrays are sharded as in training. The layers are unrolled, each with arrays of its
own: a slice of a stacked array would be a copy of the weights at every token.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from msm_jax.cli import UserError
from msm_jax.model import rope
from msm_jax.model.attention import ATTENTION, Attend, suited
from msm_jax.model.transformer import Params, block, embedded, logits, normed, whole_head
from msm_jax.pretrained import Model
from msm_jax.sharding import activations

SCORE_CHUNK = 128  # positions projected to the vocabulary at a time
Cache = list[tuple[jax.Array, jax.Array]]  # a layer's keys [B, K, h, T] and values [B, K, T, h]: as products read them
COLUMNS = (3, 2)  # the axes of the two that the columns are
Said = dict[str, jax.Array]
"""A batch's rows: tokens and log_p [B, N], top_ids and top_log_p [B, N, top] where asked for; last: the token said last
[B, 1]; count: of tokens said, used: of columns of the cache, done, seeds, streams, limits (of count), each [B]."""


class Programs:
    """A model's arrays and what is compiled for them. Call everything under the model's mesh."""

    def __init__(self, model: Model) -> None:
        self._model = model
        params, adapter = model.arrays()
        self._ends = {name: params[name] for name in params if name != "layers"}
        self._layers = _unstacked(params.pop("layers"), adapter)
        self._scale = model.source.lora.scale if model.source.lora else 0.0
        arrays = (self._layers, self._ends)
        self.programs = {
            "blank": jax.jit(self._blank, static_argnums=(0, 1, 2, 3)),
            "prefill": jax.jit(self._prefill, static_argnames=("choice", "top")),
            "join": jax.jit(self._join, donate_argnums=(0, 1)),
            "grow": jax.jit(self._grow, static_argnums=2),
            "decode": jax.jit(self._decode, static_argnames=("choice", "top"), donate_argnames=("cache", "said")),
            "score": jax.jit(self._score, static_argnames=("span", "top")),
        }
        self.blank, self.join, self.grow = (self.programs[name] for name in ("blank", "join", "grow"))
        self.prefill, self.decode, self.score = (
            functools.partial(self.programs[name], *arrays) for name in ("prefill", "decode", "score")
        )

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

    def _blank(self, B: int, T: int, N: int, top: int) -> tuple[Cache, Said]:
        """A cache of T columns and room for N tokens, of rows that are all done."""
        cfg = self._model.cfg
        spec = activations("tensor", None, None)

        def zeros(*shape: int, dtype: Any = jnp.int32) -> jax.Array:
            return jnp.zeros((B, *shape), dtype, out_sharding=activations(*[None] * len(shape)))

        shapes = ((B, cfg.K, cfg.h, T), (B, cfg.K, T, cfg.h))
        cache = [tuple(jnp.zeros(shape, cfg.dtype, out_sharding=spec) for shape in shapes) for _ in self._layers]
        said = {"tokens": zeros(N), "log_p": zeros(N, dtype=jnp.float32), "last": zeros(1)}
        if top:
            said |= {"top_ids": zeros(N, top), "top_log_p": zeros(N, top, dtype=jnp.float32)}
        said |= {name: zeros() for name in ("count", "used", "limits")}
        said |= {name: zeros(dtype=jnp.uint32) for name in ("seeds", "streams")}
        return cache, said | {"done": zeros(dtype=jnp.bool) | True}  # type: ignore[return-value]

    def _prefill(
        self, layers: list[Params], ends: Params, tokens: jax.Array, *, pads: jax.Array, seeds: jax.Array,
        streams: jax.Array, limits: jax.Array, stops: jax.Array, how: tuple[jax.Array, ...], choice: str, top: int,
    ) -> tuple[Cache, Said]:  # fmt: skip
        """Of prompts [G, P] that begin after their `pads`: a cache of P columns, and what rows know after their first
        token (N is 1)."""
        columns = _columns(tokens.shape)
        attend = self._attention(columns >= pads[:, None])

        def attention(_: int, q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
            return attend(q, k, v), _columns_last(k, v)

        x, fresh = self._forward(layers, ends, tokens, jnp.maximum(columns - pads[:, None], 0), attention)
        told = self._choose(ends, x[:, -1:], choice, top, how, seeds, streams, jnp.zeros_like(limits))
        said = told | {"seeds": seeds, "streams": streams, "limits": limits, "last": told["tokens"]}
        said |= {"count": jnp.ones_like(limits), "used": tokens.shape[1] - pads}
        return fresh, said | {"done": (told["tokens"] == stops).any(-1) | (limits <= 1)}

    def _join(
        self, cache: Cache, said: Said, fresh: Cache, first: Said, index: jax.Array, column: jax.Array
    ) -> tuple[Cache, Said]:
        """Rows of _prefill put into a batch whose next column to write is `column`. index: int32 [B], which of them
        goes where, −1 for none."""

        def put(old: jax.Array, new: jax.Array) -> jax.Array:
            spec = jax.typeof(old).sharding.spec
            whole = jax.sharding.reshard(new, jax.P(None, *spec[1:]))
            found = whole.at[jnp.maximum(index, 0)].get(mode="clip", out_sharding=spec)
            return jnp.where(jnp.reshape(index >= 0, (-1,) + (1,) * (old.ndim - 1), out_sharding=spec), found, old)

        T, P = _length(cache), _length(fresh)

        def turned(new: jax.Array, axis: int) -> jax.Array:
            return jnp.roll(_padded(new, axis, after=T - P), column - P, axis=axis)

        joined = [
            tuple(put(old, turned(new, axis)) for old, new, axis in zip(*layer, COLUMNS, strict=True))
            for layer in zip(cache, fresh, strict=True)
        ]
        wide = {
            name: jnp.pad(new, ((0, 0), (0, said[name].shape[1] - new.shape[1])) + ((0, 0),) * (new.ndim - 2))
            if new.ndim > 1
            else new
            for name, new in first.items()
        }
        return joined, {name: put(old, wide[name]) for name, old in said.items()}  # type: ignore[return-value]

    def _grow(self, cache: Cache, column: jax.Array, T: int) -> tuple[Cache, jax.Array]:
        """A ring of T columns instead, and the column to write next: what is there stands before it, in order."""

        more = T - _length(cache)

        def wider(old: jax.Array, axis: int) -> jax.Array:
            return _padded(jnp.roll(old, -column, axis=axis), axis, before=more)

        grown = [tuple(map(wider, layer, COLUMNS)) for layer in cache]
        return grown, jnp.zeros_like(column)  # type: ignore[return-value]

    def _decode(
        self, layers: list[Params], ends: Params, *, cache: Cache, said: Said, column: jax.Array, steps: jax.Array,
        until: jax.Array, stops: jax.Array, how: tuple[jax.Array, ...], choice: str, top: int,
    ) -> tuple[Cache, Said, jax.Array]:  # fmt: skip
        """Goes on for so many steps, or until so many rows are done; also the column to write next."""
        (B, N), T = said["tokens"].shape, _length(cache)
        columns, places = _columns((B, T)), _columns((B, N))

        def step(carry: tuple[Any, ...]) -> tuple[Any, ...]:
            n, column, cache, said = carry
            mask = (column - columns) % T <= said["used"][:, None]

            def attention(n: int, q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, Any]:
                k, v = (
                    jax.lax.dynamic_update_slice_in_dim(old, new, column, axis)
                    for old, new, axis in zip(cache[n], _columns_last(k, v), COLUMNS, strict=True)
                )
                return _attend_cache(q, k, v, mask), (k, v)

            x, cache = self._forward(layers, ends, said["last"], said["used"][:, None], attention)
            told = self._choose(ends, x, choice, top, how, said["seeds"], said["streams"], said["count"])
            going = ~said["done"]
            here = (places == said["count"][:, None]) & going[:, None]
            kept = {
                name: jnp.where(here if value.ndim == 2 else here[..., None], value, said[name])
                for name, value in told.items()
            }
            count = said["count"] + going
            ended = (told["tokens"] == stops).any(-1) | (count >= said["limits"])
            kept |= {"last": told["tokens"], "count": count, "used": said["used"] + going, "done": ~going | ended}
            return n + 1, (column + 1) % T, cache, said | kept

        def unfinished(carry: tuple[Any, ...]) -> jax.Array:
            return (carry[0] < steps) & (jnp.sum(carry[3]["done"]) < until)

        _, column, cache, said = jax.lax.while_loop(unfinished, step, (jnp.int32(0), column, cache, said))
        return cache, said, column

    def _choose(
        self, ends: Params, x: jax.Array, choice: str, top: int, how: tuple[jax.Array, ...], seeds: jax.Array,
        streams: jax.Array, counts: jax.Array,
    ) -> dict[str, jax.Array]:  # fmt: skip
        """The next token of every row, which has said `counts`, and its log-probability, [B, 1] each, from hidden
        states [B, 1, D]; with `top` the likeliest and theirs, [B, 1, top]."""
        cfg, (temperature, top_p) = self._model.cfg, how
        scores = logits(whole_head(cfg, ends), normed(cfg, ends, x))
        real = self._real(scores)
        if choice == "greedy":
            token = jnp.argmax(real, axis=-1).astype(jnp.int32)
        else:
            tempered = jax.sharding.reshard(real[:, 0], activations(None)) / temperature
            tempered = _nucleus(tempered, top_p) if choice == "top_p" else tempered

            def draw(seed: jax.Array, stream: jax.Array, count: jax.Array, row: jax.Array) -> jax.Array:
                key = jax.random.fold_in(jax.random.key(seed), stream)
                return jax.random.categorical(jax.random.fold_in(key, count), row)

            token = jax.vmap(draw)(seeds, streams, counts, tempered).astype(jnp.int32)[:, None]
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

    def _score(
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

        size = math.gcd(span, SCORE_CHUNK)

        def part(at: jax.Array) -> dict[str, jax.Array]:
            some, wanted = (jax.lax.dynamic_slice_in_dim(array, at, size, 1) for array in (hidden, targets))
            return self._told(logits(head, some), wanted, top)

        parts = jax.lax.map(part, jnp.arange(0, span, size))
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


def _columns(shape: tuple[int, ...]) -> jax.Array:
    """int32 [B, S]: every place's column."""
    return jax.lax.broadcasted_iota(jnp.int32, shape, 1, out_sharding=activations(None))


def _ids(scores: jax.Array) -> jax.Array:
    """int32 [B, S, V]: every score's token."""
    return jax.lax.broadcasted_iota(jnp.int32, scores.shape, 2, out_sharding=jax.typeof(scores).sharding)


def _columns_last(k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Keys and values [B, S, K, h] as a cache has them."""
    return jnp.moveaxis(k, 1, 3), jnp.moveaxis(v, 1, 2)


def _length(cache: Cache) -> int:
    """T."""
    return cache[0][0].shape[COLUMNS[0]]


def _padded(array: jax.Array, axis: int, before: int = 0, after: int = 0) -> jax.Array:
    return jnp.pad(array, [(before, after) if n == axis else (0, 0) for n in range(array.ndim)])


def _attend_cache(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """q [B, 1, H, h], a layer's cache k [B, K, h, T] and v [B, K, T, h], mask [B, T] → [B, 1, H, h]. Softmax in
    float32."""
    B, _, H, h = q.shape
    K = k.shape[1]
    q = jnp.reshape(q, (B, K, H // K, h), out_sharding=activations("tensor", None, None))
    scores = jnp.einsum("bkgh,bkht->bkgt", q, k, preferred_element_type=jnp.float32) * h**-0.5
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

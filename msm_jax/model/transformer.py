"""The decoder. NNX modules hold stacked [L, …] weights; the layers run under one `lax.scan`.

`split` is called once, when a run is built; from then on parameters are a plain nested dict
{"embed", "layers": {"q", …}, "final_norm"[, "head"]}, an adapter is another, {"q": {"a", "b"}, …}, and everything is
a pure function of the two.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from msm_jax.model import rope
from msm_jax.model.attention import ATTENTION, suited
from msm_jax.model.config import LINEAR, ModelConfig, Param, param_table, tree_of
from msm_jax.model.lora import LoraConfig, adapter_table, initial_factor
from msm_jax.model.remat import rematerialized
from msm_jax.sharding import (
    activations,
    factor_spec,
    gathered,
    joined,
    local_gather,
    local_scatter,
    param_spec,
    tensor_axes,
)

Params = dict[str, Any]
ONE_HOT_VOCABULARY = 4096  # up to here a one-hot matrix is cheap
# Dimension letters in einsum formulas. Heads come before h in the alphabet: jnp.einsum contracts in that order, and in
# another than the arrays' own a CPU copies the weights every time.
EINSUM = str.maketrans("DHKF", "dggf")
Attention = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]]


class Adapter(nnx.Variable):
    """A factor of a low-rank adapter; a kind of its own, so that `nnx.split` parts it from the parameters."""


class Stack(nnx.Module):
    """Arrays of all layers, each stacked to [L, …]."""


class Transformer(nnx.Module):
    """Pre-norm decoder with rotary attention and a SwiGLU feed-forward: Llama, Qwen2 or Qwen3 by its config."""

    embed: nnx.Param
    final_norm: nnx.Param
    head: nnx.Param  # only where embeddings are not tied

    def __init__(self, cfg: ModelConfig, lora: LoraConfig | None = None, *, key: jax.Array) -> None:
        self.cfg, self.lora = cfg, lora
        self.layers, self.adapter = Stack(), Stack()
        for path, param in param_table(cfg).items():
            group, _, name = path.rpartition(".")
            setattr(self.layers if group else self, name, nnx.Param(initial_value(cfg, path, param, key)))
        if lora is None:
            return
        for path, param in adapter_table(lora).items():
            name, _, factor = path.partition(".")
            if not hasattr(self.adapter, name):
                setattr(self.adapter, name, Stack())
            setattr(getattr(self.adapter, name), factor, Adapter(initial_factor(cfg, lora, path, param, key)))

    def __call__(self, tokens: jax.Array, segment_ids: jax.Array, positions: jax.Array) -> jax.Array:
        """int32 [B, S] each → final hidden states [B, S, D] in cfg.dtype."""
        name = suited(self.cfg.attention, segment_ids.shape[1], self.cfg.h)
        attend = ATTENTION[name](segment_ids)
        rotation = rope.angles(self.cfg, positions)

        def body(x: jax.Array, layer: Params) -> tuple[jax.Array, None]:
            return block(self.cfg, self.scale, layer, x, rotation, lambda q, k, v: (attend(q, k, v), None))

        layers = rematerialized(body, self.cfg.remat)
        x, _ = jax.lax.scan(layers, embedded(self.cfg, self.ends(), tokens), self.stacked(), unroll=self.cfg.unroll)
        return normed(self.cfg, self.ends(), x)

    @property
    def scale(self) -> float:
        """On the adapter's products."""
        return self.lora.scale if self.lora else 0.0

    def stacked(self) -> Params:
        """The layers' parameters and, under `adapter`, their low-rank factors; every array is [L, …]."""
        layers = nnx.to_pure_dict(nnx.state(self.layers, nnx.Param))
        return layers | {"adapter": nnx.to_pure_dict(nnx.state(self.adapter, Adapter))}

    def ends(self) -> Params:
        """What stands before and after the layers: embed, final_norm and, where it is not tied, head."""
        names = ("embed", "final_norm") + (() if self.cfg.tie_embeddings else ("head",))
        return {name: getattr(self, name)[...] for name in names}

    def head_matrix(self) -> jax.Array:
        return head_matrix(self.cfg, self.ends())

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[B, S, D] → float32 [B, S, V]."""
        return logits(whole_head(self.cfg, self.ends()), hidden)


def embedded(cfg: ModelConfig, ends: Params, tokens: jax.Array) -> jax.Array:
    """int32 [B, S] → [B, S, D]."""
    table = ends["embed"].astype(cfg.dtype)
    return (lookup if cfg.V > ONE_HOT_VOCABULARY else lookup_one_hot)(table, tokens)


def block(
    cfg: ModelConfig,
    scale: float,
    layer: Params,
    x: jax.Array,
    rotation: tuple[jax.Array, jax.Array],
    attention: Attention,
) -> tuple[jax.Array, Any]:
    """One layer: x [B, S, D] → [B, S, D], and what `attention` gives beside its output.

    `attention` gets the rotated q [B, S, H, h], k and v [B, S, K, h]; training, prefill and decoding differ in it
    alone. `scale` is the adapter's.
    """
    x = checkpoint_name(x, "input")
    y = rms_norm(x, layer["attn_norm"], cfg.norm_eps)
    q, k, v = (checkpoint_name(x, name) for x, name in zip(linear(layer, "qkv", y, scale), "qkv", strict=True))
    if cfg.qk_norm:
        q = rms_norm(q, layer["q_norm"], cfg.norm_eps)
        k = rms_norm(k, layer["k_norm"], cfg.norm_eps)
    out, beside = attention(rope.rotate(q, *rotation), rope.rotate(k, *rotation), v)
    (out,) = linear(layer, ("o",), out, scale)
    x = checkpoint_name(x + out, "mid")
    gate, up = linear(layer, ("gate", "up"), rms_norm(x, layer["mlp_norm"], cfg.norm_eps), scale)
    gate, up = checkpoint_name(gate, "gate"), checkpoint_name(up, "up")
    (out,) = linear(layer, ("down",), jax.nn.silu(gate) * up, scale)
    return x + out, beside


def normed(cfg: ModelConfig, ends: Params, x: jax.Array) -> jax.Array:
    """The final norm, [B, S, D]."""
    return rms_norm(x, ends["final_norm"], cfg.norm_eps)


def head_matrix(cfg: ModelConfig, ends: Params) -> jax.Array:
    """[D, V] in cfg.dtype, sharded as it is kept; the transposed embedding where embeddings are tied."""
    return (ends["embed"].T if cfg.tie_embeddings else ends["head"]).astype(cfg.dtype)


def whole_head(cfg: ModelConfig, ends: Params) -> jax.Array:
    """[D, V] in cfg.dtype, whole along fsdp."""
    return gathered(head_matrix(cfg, ends), "DV")


def logits(head: jax.Array, hidden: jax.Array) -> jax.Array:
    """Head [D, V], whole along fsdp, and hidden [B, S, D] → float32 [B, S, V]."""
    spec = activations(None, "tensor")
    return jnp.einsum("bsd,dv->bsv", hidden, head, preferred_element_type=jnp.float32, out_sharding=spec)


@jax.custom_vjp
def lookup(table: jax.Array, tokens: jax.Array) -> jax.Array:
    """Rows of table [V, D], sharded as it is kept, for tokens int32 [B, S] → [B, S, D].

    Backward a scatter-add in float32, on each device of its own rows.
    """

    def local(table: jax.Array, tokens: jax.Array) -> jax.Array:
        return joined(local_gather(table, 1), "tensor", 0).at[tokens].get(mode="clip")

    ins, outs = (param_spec("VD"), activations(None)), activations(None, None)
    table, tokens = (jax.sharding.reshard(x, spec) for x, spec in zip((table, tokens), ins, strict=True))
    return jax.shard_map(local, in_specs=ins, out_specs=outs, check_vma=False)(table, tokens)


def _lookup_forward(table: jax.Array, tokens: jax.Array) -> tuple[jax.Array, tuple[jax.Array, int]]:
    return lookup(table, tokens), (tokens, table.shape[0])


def _lookup_backward(saved: tuple[jax.Array, int], gradient: jax.Array) -> tuple[jax.Array, None]:
    tokens, V = saved

    def local(tokens: jax.Array, gradient: jax.Array) -> jax.Array:
        total = jnp.zeros((V, gradient.shape[-1]), jnp.float32).at[tokens].add(gradient)
        total = local_scatter(total.astype(gradient.dtype), 1)
        size = V // jax.lax.axis_size("tensor")
        return jax.lax.dynamic_slice_in_dim(total, jax.lax.axis_index("tensor") * size, size, 0)

    ins, outs = (activations(None), activations(None, None)), param_spec("VD")
    tokens, gradient = (jax.sharding.reshard(x, spec) for x, spec in zip((tokens, gradient), ins, strict=True))
    return jax.shard_map(local, in_specs=ins, out_specs=outs, check_vma=False)(tokens, gradient), None


lookup.defvjp(_lookup_forward, _lookup_backward)


def lookup_one_hot(table: jax.Array, tokens: jax.Array) -> jax.Array:
    """`lookup` for a small vocabulary: its gradient is a product with the one-hot tokens, which accelerators like
    better than adding row after row."""
    return _lookup_one_hot(jax.sharding.reshard(table, jax.P(None, None)), tokens)


@jax.custom_vjp
def _lookup_one_hot(table: jax.Array, tokens: jax.Array) -> jax.Array:
    return table.at[tokens].get(out_sharding=activations(None, None))


def _one_hot_forward(table: jax.Array, tokens: jax.Array) -> tuple[jax.Array, tuple[jax.Array, int]]:
    return _lookup_one_hot(table, tokens), (tokens, table.shape[0])


def _one_hot_backward(saved: tuple[jax.Array, int], gradient: jax.Array) -> tuple[jax.Array, None]:
    tokens, V = saved
    hot = jax.nn.one_hot(tokens, V, dtype=gradient.dtype)
    return jnp.einsum("bsv,bsd->vd", hot, gradient, out_sharding=jax.P(None, None)), None


_lookup_one_hot.defvjp(_one_hot_forward, _one_hot_backward)


def initial_value(cfg: ModelConfig, path: str, param: Param, key: jax.Array) -> jax.Array:
    """Initial weights in cfg.param_dtype; each parameter's stream depends on its path alone."""
    shape = param.shape(cfg.dims)
    if param.init in ("ones", "zeros"):
        return jnp.full(shape, float(param.init == "ones"), cfg.param_dtype)
    std = 0.05 if param.init == "embed" else param.fan_in(cfg.dims) ** -0.5
    if param.init == "residual":
        std *= (2 * cfg.L) ** -0.5
    normal = jax.random.normal(jax.random.fold_in(key, zlib.crc32(path.encode())), shape, jnp.float32)
    return (std * normal).astype(cfg.param_dtype)


def rms_norm(x: jax.Array, weight: jax.Array, eps: float) -> jax.Array:
    """Root-mean-square norm over the last dimension; statistics in float32, result in x's dtype."""
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps)
    return (y * weight).astype(x.dtype)


def linear(layer: Params, names: Sequence[str], x: jax.Array, scale: float) -> list[jax.Array]:
    """Maps of the same x [B, S, in…], each to [B, S, out…]: the weight, its bias where it has one, its adapter where it
    is a target.

    Every array is gathered along fsdp just before its product.
    """
    i = LINEAR[names[0]].ins.translate(EINSUM)

    def whole(array: jax.Array, letters: str) -> jax.Array:
        return gathered(array.astype(x.dtype), letters)  # cast first: half the bytes travel

    low = {}
    if targets := [name for name in names if name in layer["adapter"]]:
        # Their x·a are one product: r numbers alone do not fill a matrix unit.
        factors = [layer["adapter"][name]["a"] for name in targets]
        a = whole(jnp.concatenate(factors, axis=-1) if len(factors) > 1 else factors[0], LINEAR[names[0]].ins + "r")
        wide = scale * jnp.einsum(f"bs{i},{i}r->bsr", added_late(x), a, out_sharding=activations(None, None))
        low = dict(zip(targets, jnp.split(checkpoint_name(wide, "low"), len(targets), axis=-1), strict=True))

    def one(name: str) -> jax.Array:
        outs = LINEAR[name].outs
        o, spec = outs.translate(EINSUM), activations(None, *tensor_axes(outs))
        y = jnp.einsum(f"bs{i},{i}{o}->bs{o}", x, whole(layer[name], LINEAR[name].ins + outs), out_sharding=spec)
        if f"{name}_bias" in layer:
            y = y + whole(layer[f"{name}_bias"], outs)
        if name in low:
            b = whole(layer["adapter"][name]["b"], "r" + outs)
            more = jnp.einsum(f"bsr,r{o}->bs{o}", low[name], b, out_sharding=spec)
            y = y + jax.lax.optimization_barrier(more)  # as in added_late
        return y

    return [one(name) for name in names]


@jax.custom_vjp
def added_late(x: jax.Array) -> jax.Array:
    """x itself. Its gradient through here is a small product, added to that of a large one: a barrier before the sum
    has the compiler make it where the large product comes out, rather than in a pass of its own."""
    return x


added_late.defvjp(lambda x: (x, None), lambda _, gradient: (jax.lax.optimization_barrier(gradient),))


def abstract(cfg: ModelConfig, lora: LoraConfig | None = None) -> tuple[nnx.GraphDef, Params, Params]:
    """The model's static half, its parameters and its adapter ({} without one) as ShapeDtypeStructs on the mesh in
    use."""
    model = nnx.eval_shape(lambda: Transformer(cfg, lora, key=jax.random.key(0)))
    graph, params, adapter = nnx.split(model, nnx.Param, Adapter)  # type: ignore[misc]  # its stub forgets the second

    def placed(tree: Params, places: Params) -> Params:
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, places)

    factors = nnx.to_pure_dict(adapter).get("adapter", {})
    return graph, placed(nnx.to_pure_dict(params), shardings(cfg)), placed(factors, adapter_shardings(lora))


def bind(graph: nnx.GraphDef, params: Params, adapter: Params) -> Transformer:
    """The model with these arrays."""
    return nnx.merge(graph, params, {"adapter": adapter}) if adapter else nnx.merge(graph, params)


def initialize(cfg: ModelConfig, seed: int) -> Params:
    """Fresh parameters in cfg.param_dtype, created sharded on the mesh in use."""

    def create(key: jax.Array) -> Params:
        return nnx.to_pure_dict(nnx.split(Transformer(cfg, key=key), nnx.Param)[1])

    return jax.jit(create, out_shardings=shardings(cfg))(jax.random.key(seed))


def initialize_adapter(cfg: ModelConfig, lora: LoraConfig, seed: int) -> Params:
    """Fresh {target: {a, b}}, created sharded on the mesh in use; it changes nothing until it is trained."""

    def create(key: jax.Array) -> Params:
        model = Transformer(cfg, lora, key=key)
        return nnx.to_pure_dict(nnx.state(model, Adapter))["adapter"]

    return jax.jit(create, out_shardings=adapter_shardings(lora))(jax.random.key(seed))


def shardings(cfg: ModelConfig) -> Params:
    """A tree like the parameters, of NamedShardings on the mesh in use."""
    mesh = jax.sharding.get_mesh()
    return tree_of({path: jax.NamedSharding(mesh, param_spec(p.letters)) for path, p in param_table(cfg).items()})


def adapter_shardings(lora: LoraConfig | None) -> Params:
    """A tree like the adapter, of NamedShardings on the mesh in use."""
    mesh = jax.sharding.get_mesh()
    if lora is None:
        return {}
    table = adapter_table(lora)
    return tree_of({path: jax.NamedSharding(mesh, factor_spec(p.letters, lora.rank)) for path, p in table.items()})

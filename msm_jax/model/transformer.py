"""The decoder. NNX modules hold stacked [L, …] weights; the layers run under one `lax.scan`.

`split` is called once, when a run is built; from then on parameters are a plain nested dict
{"embed", "layers": {"q", …}, "final_norm"[, "head"]}, an adapter is another, {"q": {"a", "b"}, …}, and everything is
a pure function of the two.
"""

import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from msm_jax.model import rope
from msm_jax.model.attention import attend, segment_mask
from msm_jax.model.config import LINEAR, ModelConfig, Param, param_table, tree_of
from msm_jax.model.lora import LoraConfig, adapter_table, initial_factor
from msm_jax.sharding import activations, gathered, param_spec, tensor_axes

Params = dict[str, Any]
ONE_HOT_SIZE = 1 << 28  # most numbers in a one-hot matrix of the whole batch
EINSUM = str.maketrans("DHKF", "dnnf")  # dimension letters as einsum formulas usually have them
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
        mask = segment_mask(segment_ids)
        rotation = rope.angles(self.cfg, positions)

        def body(x: jax.Array, layer: Params) -> tuple[jax.Array, None]:
            return block(self.cfg, self.scale, layer, x, rotation, lambda q, k, v: (attend(q, k, v, mask), None))

        if self.cfg.remat == "full":
            body = jax.checkpoint(body, policy=jax.checkpoint_policies.nothing_saveable, prevent_cse=False)
        x, _ = jax.lax.scan(body, embedded(self.cfg, self.ends(), tokens), self.stacked())
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
        return logits(self.head_matrix(), hidden)


def embedded(cfg: ModelConfig, ends: Params, tokens: jax.Array) -> jax.Array:
    """int32 [B, S] → [B, S, D]."""
    return lookup(gathered(ends["embed"], "-D").astype(cfg.dtype), tokens)


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
    y = rms_norm(x, layer["attn_norm"], cfg.norm_eps)
    q, k, v = (linear(layer, name, y, scale) for name in "qkv")
    if cfg.qk_norm:
        q = rms_norm(q, layer["q_norm"], cfg.norm_eps)
        k = rms_norm(k, layer["k_norm"], cfg.norm_eps)
    out, beside = attention(rope.rotate(q, *rotation), rope.rotate(k, *rotation), v)
    x = x + linear(layer, "o", out, scale)
    y = rms_norm(x, layer["mlp_norm"], cfg.norm_eps)
    y = jax.nn.silu(linear(layer, "gate", y, scale)) * linear(layer, "up", y, scale)
    return x + linear(layer, "down", y, scale), beside


def normed(cfg: ModelConfig, ends: Params, x: jax.Array) -> jax.Array:
    """The final norm, [B, S, D]."""
    return rms_norm(x, ends["final_norm"], cfg.norm_eps)


def head_matrix(cfg: ModelConfig, ends: Params) -> jax.Array:
    """[D, V] in cfg.dtype, whole along fsdp; the transposed embedding where embeddings are tied."""
    matrix = gathered(ends["embed"], "VD").T if cfg.tie_embeddings else gathered(ends["head"], "DV")
    return matrix.astype(cfg.dtype)


def logits(head: jax.Array, hidden: jax.Array) -> jax.Array:
    """Head [D, V], hidden [B, S, D] → float32 [B, S, V]."""
    spec = activations(None, "tensor")
    return jnp.einsum("bsd,dv->bsv", hidden, head, preferred_element_type=jnp.float32, out_sharding=spec)


@jax.custom_vjp
def lookup(table: jax.Array, tokens: jax.Array) -> jax.Array:
    """Rows of table [V, D] for tokens [B, S] → [B, S, D].

    Forward a gather; backward a matrix product with the one-hot tokens, because the gather's own transpose is a
    scatter-add, which accelerators run row after row. Of a large vocabulary some positions are done at a time.
    """
    return table.at[tokens].get(out_sharding=activations(None, None))


def _lookup_forward(table: jax.Array, tokens: jax.Array) -> tuple[jax.Array, tuple[jax.Array, int]]:
    return lookup(table, tokens), (tokens, table.shape[0])


def _lookup_backward(saved: tuple[jax.Array, int], gradient: jax.Array) -> tuple[jax.Array, None]:
    (tokens, V), (B, S) = saved, saved[0].shape
    parts = next(n for n in range(1, S + 1) if S % n == 0 and (n == S or B * (S // n) * V <= ONE_HOT_SIZE))

    def product(tokens: jax.Array, gradient: jax.Array) -> jax.Array:
        hot = jax.nn.one_hot(tokens, V, dtype=gradient.dtype)
        return jnp.einsum("bsv,bsd->vd", hot, gradient, out_sharding=jax.P(None, None))

    if parts == 1:
        return product(tokens, gradient), None

    def split(x: jax.Array) -> jax.Array:
        """[B, S, …] → [parts, B, S/parts, …]"""
        spec = activations(*[None] * x.ndim)
        return jnp.moveaxis(jnp.reshape(x, (B, parts, S // parts, *x.shape[2:]), out_sharding=spec), 1, 0)

    def add(total: jax.Array, part: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total + product(*part).astype(total.dtype), None

    zero = jnp.zeros((V, gradient.shape[-1]), jnp.float32)
    total, _ = jax.lax.scan(add, zero, (split(tokens), split(gradient)))
    return total.astype(gradient.dtype), None


lookup.defvjp(_lookup_forward, _lookup_backward)


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


def linear(layer: Params, name: str, x: jax.Array, scale: float) -> jax.Array:
    """x [B, S, in…] → [B, S, out…]: the weight, its bias where it has one, its adapter where it is a target.

    Every array is gathered along fsdp just before its product.
    """
    ins, outs = LINEAR[name].ins, LINEAR[name].outs
    i, o = ins.translate(EINSUM), outs.translate(EINSUM)
    spec = activations(None, *tensor_axes(outs))

    def weight(array: jax.Array, letters: str) -> jax.Array:
        return gathered(array, letters).astype(x.dtype)

    y = jnp.einsum(f"bs{i},{i}{o}->bs{o}", x, weight(layer[name], ins + outs), out_sharding=spec)
    if f"{name}_bias" in layer:
        y = y + weight(layer[f"{name}_bias"], outs)
    if name in layer["adapter"]:
        a, b = layer["adapter"][name]["a"], layer["adapter"][name]["b"]
        low = jnp.einsum(f"bs{i},{i}r->bsr", x, weight(a, ins + "r"), out_sharding=activations(None, None))
        y = y + scale * jnp.einsum(f"bsr,r{o}->bs{o}", low, weight(b, "r" + outs), out_sharding=spec)
    return y


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
    table = adapter_table(lora) if lora else {}
    return tree_of({path: jax.NamedSharding(mesh, param_spec(p.letters)) for path, p in table.items()})

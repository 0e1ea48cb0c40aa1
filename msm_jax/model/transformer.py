"""The decoder. NNX modules hold stacked [L, …] weights; the layers run under one `lax.scan`.

`split` is called once, when a run is built; from then on parameters are a plain nested dict
{"embed", "layers": {"q", …}, "final_norm"[, "head"]} and everything is a pure function of it.
"""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from msm_jax.model import rope
from msm_jax.model.attention import attend, segment_mask
from msm_jax.model.config import ModelConfig, Param, param_table
from msm_jax.sharding import activations, gathered, param_spec

Params = dict[str, Any]


class Layers(nnx.Module):
    """All layers' weights, each stacked to [L, …]."""


class Transformer(nnx.Module):
    """Pre-norm decoder with rotary attention and a SwiGLU feed-forward: Llama- or (with qk_norm) Qwen3-shaped."""

    embed: nnx.Param
    final_norm: nnx.Param
    head: nnx.Param  # only where embeddings are not tied

    def __init__(self, cfg: ModelConfig, *, key: jax.Array) -> None:
        self.cfg = cfg
        self.layers = Layers()
        for path, param in param_table(cfg).items():
            group, _, name = path.rpartition(".")
            value = nnx.Param(initial_value(cfg, path, param, key), out_sharding=param_spec(param.letters))
            setattr(self.layers if group else self, name, value)

    def __call__(self, tokens: jax.Array, segment_ids: jax.Array, positions: jax.Array) -> jax.Array:
        """int32 [B, S] each → final hidden states [B, S, D] in cfg.dtype."""
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
        x = lookup(gathered(self.embed[...], "-D").astype(dtype), tokens)
        mask = segment_mask(segment_ids)
        cos, sin = rope.angles(positions, cfg.h, cfg.rope_theta)

        def body(x: jax.Array, layer: Params) -> tuple[jax.Array, None]:
            return block(cfg, layer, x, mask, cos, sin), None

        if cfg.remat == "full":
            body = jax.checkpoint(body, policy=jax.checkpoint_policies.nothing_saveable, prevent_cse=False)
        stacked = nnx.to_pure_dict(nnx.state(self.layers, nnx.Param))
        x, _ = jax.lax.scan(body, x, stacked)
        return rms_norm(x, self.final_norm[...], cfg.norm_eps)

    def head_matrix(self) -> jax.Array:
        """[D, V], whole along fsdp; the transposed embedding where embeddings are tied."""
        if self.cfg.tie_embeddings:
            return gathered(self.embed[...], "VD").T
        return gathered(self.head[...], "DV")

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[B, S, D] → float32 [B, S, V]."""
        head = self.head_matrix().astype(hidden.dtype)
        spec = activations(None, "tensor")
        return jnp.einsum("bsd,dv->bsv", hidden, head, preferred_element_type=jnp.float32, out_sharding=spec)


@jax.custom_vjp
def lookup(table: jax.Array, tokens: jax.Array) -> jax.Array:
    """Rows of table [V, D] for tokens [B, S] → [B, S, D].

    Forward a gather; backward a matrix product with the one-hot tokens, because the gather's own transpose is a
    scatter-add, which accelerators run row after row.
    """
    return table.at[tokens].get(out_sharding=activations(None, None))


def _lookup_forward(table: jax.Array, tokens: jax.Array) -> tuple[jax.Array, tuple[jax.Array, int]]:
    return lookup(table, tokens), (tokens, table.shape[0])


def _lookup_backward(saved: tuple[jax.Array, int], gradient: jax.Array) -> tuple[jax.Array, None]:
    tokens, V = saved
    hot = jax.nn.one_hot(tokens, V, dtype=gradient.dtype)
    return jnp.einsum("bsv,bsd->vd", hot, gradient, out_sharding=jax.P(None, None)), None


lookup.defvjp(_lookup_forward, _lookup_backward)


def initial_value(cfg: ModelConfig, path: str, param: Param, key: jax.Array) -> jax.Array:
    """float32 initial weights; each parameter's stream depends on its path alone."""
    shape = param.shape(cfg)
    if param.init == "ones":
        return jnp.ones(shape, jnp.float32)
    std = 0.05 if param.init == "embed" else param.fan_in(cfg) ** -0.5
    if param.init == "residual":
        std *= (2 * cfg.L) ** -0.5
    return std * jax.random.normal(jax.random.fold_in(key, zlib.crc32(path.encode())), shape, jnp.float32)


def rms_norm(x: jax.Array, weight: jax.Array, eps: float) -> jax.Array:
    """Root-mean-square norm over the last dimension; statistics in float32, result in x's dtype."""
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps)
    return (y * weight).astype(x.dtype)


def block(cfg: ModelConfig, layer: Params, x: jax.Array, mask: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """One layer: x [B, S, D] → [B, S, D]. Each weight is gathered along fsdp just before its product."""
    residual = activations(None, None)

    def weight(name: str, letters: str) -> jax.Array:
        return gathered(layer[name], letters).astype(x.dtype)

    y = rms_norm(x, layer["attn_norm"], cfg.norm_eps)
    q = jnp.einsum("bsd,dkh->bskh", y, weight("q", "DHh"))
    k = jnp.einsum("bsd,dkh->bskh", y, weight("k", "DKh"))
    v = jnp.einsum("bsd,dkh->bskh", y, weight("v", "DKh"))
    if cfg.qk_norm:
        q = rms_norm(q, layer["q_norm"], cfg.norm_eps)
        k = rms_norm(k, layer["k_norm"], cfg.norm_eps)
    attended = attend(rope.rotate(q, cos, sin), rope.rotate(k, cos, sin), v, mask)
    x = x + jnp.einsum("bskh,khd->bsd", attended, weight("o", "HhD"), out_sharding=residual)

    y = rms_norm(x, layer["mlp_norm"], cfg.norm_eps)
    gate = jnp.einsum("bsd,df->bsf", y, weight("gate", "DF"))
    up = jnp.einsum("bsd,df->bsf", y, weight("up", "DF"))
    return x + jnp.einsum("bsf,fd->bsd", jax.nn.silu(gate) * up, weight("down", "FD"), out_sharding=residual)


def abstract(cfg: ModelConfig) -> tuple[nnx.GraphDef, Params]:
    """The model's static half, and its parameters as ShapeDtypeStructs without shardings."""
    graph, state = nnx.split(nnx.eval_shape(lambda: Transformer(cfg, key=jax.random.key(0))), nnx.Param)
    return graph, nnx.to_pure_dict(state)


def initialize(cfg: ModelConfig, seed: int) -> Params:
    """Fresh float32 parameters, created sharded on the mesh in use."""

    def create(key: jax.Array) -> Params:
        return nnx.to_pure_dict(nnx.split(Transformer(cfg, key=key), nnx.Param)[1])

    return jax.jit(create, out_shardings=shardings(cfg))(jax.random.key(seed))


def shardings(cfg: ModelConfig) -> Params:
    """A tree like the parameters, of NamedShardings on the mesh in use."""
    mesh = jax.sharding.get_mesh()
    tree: Params = {"layers": {}}
    for path, param in param_table(cfg).items():
        group, _, name = path.rpartition(".")
        (tree["layers"] if group else tree)[name] = jax.NamedSharding(mesh, param_spec(param.letters))
    return tree

"""Low-rank adapters (Hu et al., arXiv 2106.09685): a tree of their own beside the frozen parameters.

A target `q` of the layers has `layers.q.a` [L, in…, r] and `layers.q.b` [L, r, out…]; its map becomes
x·W + alpha/r · (x·a)·b. Rows, heads and shardings follow from the parameter table.
"""

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from msm_jax.cli import UserError
from msm_jax.model.config import LINEAR, Dims, ModelConfig, Param

Tree = dict[str, Any]
INITS = ("kaiming", "gaussian")


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    rank: int  # r
    alpha: float  # the adapter's product is scaled by alpha / r
    targets: tuple[str, ...] = tuple(LINEAR)  # of q, k, v, o, gate, up, down
    init: str = "kaiming"  # of a; kaiming: uniform ±1/√in, as peft does; gaussian: normal, std 1/r. b is zero
    dtype: str = "float32"  # the adapter is kept in

    def __post_init__(self) -> None:
        if not self.targets or set(self.targets) - set(LINEAR):
            raise UserError(f"config.lora.targets = {self.targets!r}: must be some of {', '.join(LINEAR)}")
        object.__setattr__(self, "targets", tuple(name for name in LINEAR if name in set(self.targets)))
        if self.rank < 1 or self.alpha <= 0:
            raise UserError(f"config.lora: rank = {self.rank}, alpha = {self.alpha}: rank at least 1, alpha above 0")
        for name, allowed in (("init", INITS), ("dtype", ("float32", "bfloat16"))):
            if getattr(self, name) not in allowed:
                raise UserError(f"config.lora.{name} = {getattr(self, name)!r}: one of {', '.join(allowed)}")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def shape(self) -> dict[str, Any]:
        """What the adapter's weights decide, and how they act: all but its first values and its dtype."""
        return {"rank": self.rank, "alpha": self.alpha, "targets": list(self.targets)}

    def dims(self, cfg: ModelConfig) -> Dims:
        return {**cfg.dims, "r": self.rank}


def lora_of(settings: Mapping[str, Any]) -> LoraConfig | None:
    """config.lora as a LoraConfig; None where its rank is 0."""
    shaping = {field.name: settings[field.name] for field in dataclasses.fields(LoraConfig)}
    return LoraConfig(**shaping) if settings["rank"] else None


def adapter_table(lora: LoraConfig) -> dict[str, Param]:
    """Every factor by dotted path, `q.a`; its Hugging Face name is the one peft gives it."""
    table = {}
    for name in lora.targets:
        base = LINEAR[name]
        hf = "base_model.model." + base.hf.removesuffix("weight") + "lora_{}.weight"
        table[f"{name}.a"] = Param(f"L{base.ins}>r", lora.init, hf.replace("lora_{}", "lora_A"))
        table[f"{name}.b"] = Param(f"Lr>{base.outs}", "zeros", hf.replace("lora_{}", "lora_B"))
    return table


def initial_factor(cfg: ModelConfig, lora: LoraConfig, path: str, param: Param, key: jax.Array) -> jax.Array:
    """A fresh factor; each one's stream depends on its path alone."""
    shape, key = param.shape(lora.dims(cfg)), jax.random.fold_in(key, zlib.crc32(f"lora.{path}".encode()))
    if param.init == "zeros":
        return jnp.zeros(shape, lora.dtype)
    if param.init == "kaiming":
        bound = param.fan_in(lora.dims(cfg)) ** -0.5
        return jax.random.uniform(key, shape, jnp.float32, -bound, bound).astype(lora.dtype)
    return (jax.random.normal(key, shape, jnp.float32) / lora.rank).astype(lora.dtype)


def added(name: str, weight: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
    """One layer's weight [in…, out…] + alpha/r · a·b, in float32."""
    ins, outs = LINEAR[name].ins, LINEAR[name].outs
    exact = jax.lax.Precision.HIGHEST  # accelerators multiply float32 in fewer bits unless told
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return weight.astype(jnp.float32) + scale * jnp.einsum(f"{ins}r,r{outs}->{ins}{outs}", a, b, precision=exact)


def merged(params: Tree, adapter: Tree, lora: LoraConfig) -> Tree:
    """The parameters with the adapter added, in float32 and layer by layer, back in the parameters' dtype."""

    def add(name: str) -> jax.Array:
        def one(layer: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
            weight, a, b = layer
            return added(name, weight, a, b, lora.scale).astype(weight.dtype)

        return jax.lax.map(one, (params["layers"][name], adapter[name]["a"], adapter[name]["b"]))

    return params | {"layers": params["layers"] | {name: add(name) for name in lora.targets}}

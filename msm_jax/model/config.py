"""The shape of a model, and the one table that says what every parameter is."""

import dataclasses
from typing import Any

from msm_jax.cli import UserError


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A dense decoder. Letters are used for dimensions everywhere in this project."""

    V: int  # vocabulary
    D: int  # model width
    L: int  # layers
    H: int  # query heads
    K: int  # key/value heads; H is a multiple of K
    h: int  # width of a head (even)
    F: int  # feed-forward width
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    qk_norm: bool = False  # True: Qwen3-shaped, False: Llama-shaped
    tie_embeddings: bool = True
    dtype: str = "float32"  # of the matrix products; statistics, softmax and loss are always float32
    remat: str = "none"  # what the backward pass recomputes: none, or full (every layer)

    def __post_init__(self) -> None:
        for name in "VDLHKhF":
            if getattr(self, name) < 1:
                raise UserError(f"config.model.{name} = {getattr(self, name)}: must be at least 1")
        if self.H % self.K:
            raise UserError(f"config.model.H = {self.H}: must be a multiple of config.model.K = {self.K}")
        if self.h % 2:
            raise UserError(f"config.model.h = {self.h}: must be even, rotary embeddings turn pairs")
        for name, allowed in (("dtype", ("float32", "bfloat16")), ("remat", ("none", "full"))):
            if getattr(self, name) not in allowed:
                raise UserError(f"config.model.{name} = {getattr(self, name)!r}: one of {', '.join(allowed)}")

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Param:
    """One parameter.

    dims: a letter for each dimension, `L` first where it is stacked over layers. In a matrix, `>` separates the
      dimensions that are contracted from those that come out: `LD>Hh` is [L, D, H, h], maps D to (H, h).
    init: `ones`, `embed` (normal, std 0.05), `in` (normal, std 1/√fan-in) or `residual` (`in` over √2L).
    hf: Hugging Face name, `{}` is the layer. Hugging Face matrices are [out, in].
    """

    dims: str
    init: str
    hf: str

    @property
    def letters(self) -> str:
        return self.dims.replace(">", "")

    def shape(self, cfg: ModelConfig) -> tuple[int, ...]:
        return tuple(getattr(cfg, letter) for letter in self.letters)

    def fan_in(self, cfg: ModelConfig) -> int:
        size = 1
        for letter in self.dims.partition(">")[0].replace("L", ""):
            size *= getattr(cfg, letter)
        return size


_TABLE = {
    "embed": Param("VD", "embed", "model.embed_tokens.weight"),
    "layers.attn_norm": Param("LD", "ones", "model.layers.{}.input_layernorm.weight"),
    "layers.q": Param("LD>Hh", "in", "model.layers.{}.self_attn.q_proj.weight"),
    "layers.k": Param("LD>Kh", "in", "model.layers.{}.self_attn.k_proj.weight"),
    "layers.v": Param("LD>Kh", "in", "model.layers.{}.self_attn.v_proj.weight"),
    "layers.q_norm": Param("Lh", "ones", "model.layers.{}.self_attn.q_norm.weight"),
    "layers.k_norm": Param("Lh", "ones", "model.layers.{}.self_attn.k_norm.weight"),
    "layers.o": Param("LHh>D", "residual", "model.layers.{}.self_attn.o_proj.weight"),
    "layers.mlp_norm": Param("LD", "ones", "model.layers.{}.post_attention_layernorm.weight"),
    "layers.gate": Param("LD>F", "in", "model.layers.{}.mlp.gate_proj.weight"),
    "layers.up": Param("LD>F", "in", "model.layers.{}.mlp.up_proj.weight"),
    "layers.down": Param("LF>D", "residual", "model.layers.{}.mlp.down_proj.weight"),
    "final_norm": Param("D", "ones", "model.norm.weight"),
    "head": Param("D>V", "in", "lm_head.weight"),
}


def param_table(cfg: ModelConfig) -> dict[str, Param]:
    """The parameters this model has, by dotted path; drives initialisation, sharding and the HF mapping."""
    absent = set() if cfg.qk_norm else {"layers.q_norm", "layers.k_norm"}
    absent |= {"head"} if cfg.tie_embeddings else set()
    return {path: param for path, param in _TABLE.items() if path not in absent}

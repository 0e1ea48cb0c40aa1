"""The shape of a model, and the one table that says what every parameter is."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from msm_jax.cli import UserError
from msm_jax.model import remat

Pairs = tuple[tuple[str, Any], ...]
Dims = Mapping[str, int]
"""The size of every dimension letter."""


LETTERS = "VDLHKhF"
RUNTIME = ("dtype", "param_dtype", "remat", "attention", "unroll")


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
    rope_scaling: Pairs = ()  # (("rope_type", "llama3"), ("factor", 8.0), …), Hugging Face's names; see model/rope.py
    norm_eps: float = 1e-5
    qk_norm: bool = False  # normed queries and keys, as in Qwen3
    qkv_bias: bool = False  # as in Qwen2 and Qwen2.5
    tie_embeddings: bool = True
    dtype: str = "float32"  # of the matrix products; statistics, softmax and loss are always float32
    param_dtype: str = "float32"  # the parameters are kept in; a frozen base under LoRA may be bfloat16
    remat: str = "none"  # what the backward pass recomputes, see model/remat.py
    attention: str = ""  # reference or another of model/attention.py; empty: what suits the chip
    unroll: int = 1  # layers in one turn of the loop over them

    def __post_init__(self) -> None:
        scaling = tuple(sorted((key, value) for key, value in self.rope_scaling))
        object.__setattr__(self, "rope_scaling", scaling)  # lists, as JSON has them, would not be hashable
        for name in LETTERS:
            if getattr(self, name) < 1:
                raise UserError(f"config.model.{name} = {getattr(self, name)}: must be at least 1")
        if self.H % self.K:
            raise UserError(f"config.model.H = {self.H}: must be a multiple of config.model.K = {self.K}")
        if self.h % 2:
            raise UserError(f"config.model.h = {self.h}: must be even, rotary embeddings turn pairs")
        if self.unroll < 1 or self.L % self.unroll:
            raise UserError(f"config.model.unroll = {self.unroll}: must divide the {self.L} layers")
        remat.parse(self.remat)
        floats = ("float32", "bfloat16")
        for name, allowed in (("dtype", floats), ("param_dtype", floats)):
            if getattr(self, name) not in allowed:
                raise UserError(f"config.model.{name} = {getattr(self, name)!r}: one of {', '.join(allowed)}")

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @property
    def dims(self) -> Dims:
        return {letter: getattr(self, letter) for letter in LETTERS}

    def shape(self) -> dict[str, Any]:
        """What the weights decide: all but dtypes and recomputation."""
        return {key: value for key, value in self.to_dict().items() if key not in RUNTIME}


def with_dtypes(settings: Mapping[str, Any], default: str, frozen: bool) -> dict[str, Any]:
    """config.model with the dtypes that it leaves empty: `default` of products, and of parameters where they are
    frozen under an adapter, which only pass through the products; what is trained deserves float32."""
    dtype = settings["dtype"] or default
    return {**settings, "dtype": dtype, "param_dtype": settings["param_dtype"] or (dtype if frozen else "float32")}


@dataclasses.dataclass(frozen=True)
class Param:
    """One parameter.

    dims: a letter for each dimension, `L` first where it is stacked over layers. In a linear map, `>` separates the
      dimensions that are contracted from those that come out: `LD>Hh` is [L, D, H, h], maps D to (H, h); a bias has
      nothing before `>`.
    init: `ones`, `zeros`, `embed` (normal, std 0.05), `in` (normal, std 1/√fan-in) or `residual` (`in` over √2L).
    hf: Hugging Face name, `{}` is the layer. Hugging Face matrices are [out, in], with h merged into H or K.
    """

    dims: str
    init: str
    hf: str

    @property
    def letters(self) -> str:
        return self.dims.replace(">", "")

    @property
    def stacked(self) -> bool:
        return self.dims.startswith("L")

    @property
    def ins(self) -> str:
        """The contracted dimensions of a linear map; "" of anything else."""
        return self.dims.removeprefix("L").rpartition(">")[0]

    @property
    def outs(self) -> str:
        """The dimensions that come out of a linear map."""
        return self.dims.partition(">")[2]

    def shape(self, dims: Dims) -> tuple[int, ...]:
        return tuple(dims[letter] for letter in self.letters)

    def fan_in(self, dims: Dims) -> int:
        return math.prod(dims[letter] for letter in self.ins)

    def hf_shape(self, dims: Dims) -> tuple[int, ...]:
        """Of one layer's Hugging Face tensor."""
        if ">" not in self.dims:
            return tuple(dims[letter] for letter in self.letters.removeprefix("L"))
        out = math.prod(dims[letter] for letter in self.outs)
        return (out, self.fan_in(dims)) if self.ins else (out,)


_TABLE = {
    "embed": Param("VD", "embed", "model.embed_tokens.weight"),
    "layers.attn_norm": Param("LD", "ones", "model.layers.{}.input_layernorm.weight"),
    "layers.q": Param("LD>Hh", "in", "model.layers.{}.self_attn.q_proj.weight"),
    "layers.k": Param("LD>Kh", "in", "model.layers.{}.self_attn.k_proj.weight"),
    "layers.v": Param("LD>Kh", "in", "model.layers.{}.self_attn.v_proj.weight"),
    "layers.q_bias": Param("L>Hh", "zeros", "model.layers.{}.self_attn.q_proj.bias"),
    "layers.k_bias": Param("L>Kh", "zeros", "model.layers.{}.self_attn.k_proj.bias"),
    "layers.v_bias": Param("L>Kh", "zeros", "model.layers.{}.self_attn.v_proj.bias"),
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


LINEAR = {
    path.removeprefix("layers."): param for path, param in _TABLE.items() if param.stacked and param.ins and param.outs
}
"""The seven linear maps of a layer by name, which is also what LoRA targets are called."""


def param_table(cfg: ModelConfig) -> dict[str, Param]:
    """The parameters this model has, by dotted path; drives initialisation, sharding and the HF mapping."""
    absent = set() if cfg.qk_norm else {"layers.q_norm", "layers.k_norm"}
    absent |= set() if cfg.qkv_bias else {"layers.q_bias", "layers.k_bias", "layers.v_bias"}
    absent |= {"head"} if cfg.tie_embeddings else set()
    return {path: param for path, param in _TABLE.items() if path not in absent}


def tree_of(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"layers.q": x, "embed": y} as {"layers": {"q": x}, "embed": y}."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        group, _, name = path.rpartition(".")
        (tree.setdefault(group, {}) if group else tree)[name] = leaf
    return tree


def leaf_at(tree: Mapping[str, Any], path: str) -> Any:
    """The leaf of a nested dict at a dotted path."""
    for name in path.split("."):
        tree = tree[name]
    return tree

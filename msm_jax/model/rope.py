"""Rotary position embeddings, the half-split form of Llama and Qwen checkpoints, and their long-context scalings."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from msm_jax.cli import UserError
from msm_jax.model.config import ModelConfig

# rope_type → keys that must be given, keys that may be given; the names are Hugging Face's.
KEYS: dict[str, tuple[set[str], set[str]]] = {
    "default": (set(), set()),
    "linear": ({"factor"}, set()),
    "llama3": ({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}, set()),
    "yarn": (
        {"factor", "original_max_position_embeddings"},
        {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"},
    ),
}


def check(scaling: dict[str, Any], where: str) -> None:
    """Raises UserError on an unknown rope_type, and on a key that is missing or that its type does not know."""
    kind = scaling.get("rope_type", "default")
    if kind not in KEYS:
        raise UserError(f"{where}: rope_type {kind!r} is not supported; one of {', '.join(KEYS)}")
    required, optional = KEYS[kind]
    given = set(scaling) - {"rope_type"}
    if missing := required - given:
        raise UserError(f"{where}: rope_type {kind!r} needs {', '.join(sorted(missing))}")
    if unknown := given - required - optional:
        raise UserError(f"{where}: rope_type {kind!r} does not know {', '.join(sorted(unknown))}")
    for key in given - {"truncate"}:
        if not isinstance(scaling[key], int | float) or not 0 < scaling[key] < math.inf:
            raise UserError(f"{where}: {key} = {scaling[key]!r}: must be a number above 0")
    if kind == "llama3" and scaling["high_freq_factor"] <= scaling["low_freq_factor"]:
        raise UserError(f"{where}: high_freq_factor must be above low_freq_factor")


def frequencies(cfg: ModelConfig) -> tuple[np.ndarray, float]:
    """Radians a position, float32 [h/2], and the factor on cosines and sines."""
    scaling = dict(cfg.rope_scaling)
    plain = cfg.rope_theta ** -(np.arange(0, cfg.h, 2, dtype=np.float32) / np.float32(cfg.h))
    match scaling.get("rope_type", "default"):
        case "linear":  # position interpolation, Chen et al., arXiv 2306.15595
            return (plain / scaling["factor"]).astype(np.float32), 1.0
        case "llama3":
            return _llama3(plain, scaling), 1.0
        case "yarn":
            return _yarn(cfg, plain, scaling)
    return plain.astype(np.float32), 1.0


def _llama3(plain: np.ndarray, scaling: dict[str, Any]) -> np.ndarray:
    """Llama 3.1 (Grattafiori et al., arXiv 2407.21783): long wavelengths are stretched, short ones kept, those
    between interpolated."""
    factor, low, high = (scaling[key] for key in ("factor", "low_freq_factor", "high_freq_factor"))
    turns = scaling["original_max_position_embeddings"] * plain / (2 * np.pi)  # within the original context
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (keep * plain + (1 - keep) * plain / factor).astype(np.float32)


def _yarn(cfg: ModelConfig, plain: np.ndarray, scaling: dict[str, Any]) -> tuple[np.ndarray, float]:
    """YaRN (Peng et al., arXiv 2309.00071): frequencies that turn fewer than beta_slow times in the original context
    are stretched, more than beta_fast kept, a linear ramp over the dimensions between."""
    factor, context = scaling["factor"], scaling["original_max_position_embeddings"]

    def dimension(turns: float) -> float:
        """The (fractional) index of the frequency that turns so often in the original context."""
        return cfg.h * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(cfg.rope_theta))

    def magnitude(mscale: float = 1.0) -> float:
        return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0

    low, high = dimension(scaling.get("beta_fast") or 32), dimension(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, cfg.h - 1)
    stretch = np.clip((np.arange(cfg.h // 2) - low) / max(high - low, 0.001), 0.0, 1.0)
    scale = scaling.get("attention_factor")
    if scale is None:
        a, b = scaling.get("mscale"), scaling.get("mscale_all_dim")
        scale = magnitude(a) / magnitude(b) if a and b else magnitude()
    return (stretch * plain / factor + (1 - stretch) * plain).astype(np.float32), float(scale)


def angles(cfg: ModelConfig, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines, float32 [B, S, 1, h/2], of positions int32 [B, S]. Su et al., arXiv 2104.09864."""
    inverse, scale = frequencies(cfg)
    angle = positions[:, :, None, None].astype(jnp.float32) * inverse
    return jnp.cos(angle) * scale, jnp.sin(angle) * scale


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """x [B, S, heads, h], turned by position, in x's dtype."""
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)

"""The paper's five models: their names on the hub and the shapes in their published config.json.

Midtraining and fine-tuning in the paper start from post-trained models but for Llama, whose base has no chat template
(arXiv 2605.02087; Qwen3's names without a suffix are the post-trained ones). Qwen2.5's Instruct models have another
norm_eps than their bases.
"""

from typing import Any

LLAMA3_ROPE = (
    ("rope_type", "llama3"),
    ("factor", 8.0),
    ("low_freq_factor", 1.0),
    ("high_freq_factor", 4.0),
    ("original_max_position_embeddings", 8192),
)

HUB = {
    "qwen3_32b": "Qwen/Qwen3-32B",
    "qwen3_14b": "Qwen/Qwen3-14B",
    "qwen2_5_32b": "Qwen/Qwen2.5-32B-Instruct",
    "qwen2_5_14b": "Qwen/Qwen2.5-14B-Instruct",
    "llama3_1_8b": "meta-llama/Llama-3.1-8B",
}

_QWEN3 = {"V": 151_936, "rope_theta": 1e6, "rope_scaling": (), "norm_eps": 1e-6, "qk_norm": True, "qkv_bias": False}
_QWEN2_5 = {"V": 152_064, "rope_theta": 1e6, "rope_scaling": (), "norm_eps": 1e-6, "qk_norm": False, "qkv_bias": True}
_LLAMA3_1 = {"V": 128_256, "rope_theta": 5e5, "rope_scaling": LLAMA3_ROPE, "norm_eps": 1e-5, "qk_norm": False,
             "qkv_bias": False}  # fmt: skip

# In the letters of configs/common.py; no model here ties its embeddings.
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3_32b": _QWEN3 | {"D": 5120, "L": 64, "H": 64, "K": 8, "h": 128, "F": 25_600, "tie_embeddings": False},
    "qwen3_14b": _QWEN3 | {"D": 5120, "L": 40, "H": 40, "K": 8, "h": 128, "F": 17_408, "tie_embeddings": False},
    "qwen2_5_32b": _QWEN2_5 | {"D": 5120, "L": 64, "H": 40, "K": 8, "h": 128, "F": 27_648, "tie_embeddings": False},
    "qwen2_5_14b": _QWEN2_5 | {"D": 5120, "L": 48, "H": 40, "K": 8, "h": 128, "F": 13_824, "tie_embeddings": False},
    "llama3_1_8b": _LLAMA3_1 | {"D": 4096, "L": 32, "H": 32, "K": 8, "h": 128, "F": 14_336, "tie_embeddings": False},
}

"""What a chip can do, and how much arithmetic a training step asks of it.

Numbers of chips are the vendors' (dense bf16, one direction of one link); what a JAX device is differs: two per chip on
tpu7x, one everywhere else here.
"""

import dataclasses
import math

from msm_jax.model.config import LINEAR, ModelConfig, param_table
from msm_jax.model.lora import LoraConfig, adapter_table

Options = dict[str, bool | int]


@dataclasses.dataclass(frozen=True)
class Chip:
    """One JAX device of a kind."""

    name: str
    flops: float  # peak of dense bf16 products, FLOP/s
    hbm: float  # bytes a program can use
    bandwidth: float  # of that memory, bytes/s
    link: float = 0.0  # of one link between chips, one direction, bytes/s
    axes: int = 0  # of the torus; each has two links
    clock: float = 0.0  # Hz; TPU only, the compiler's estimates are in cycles
    cores: int = 1  # that share a device's work


CHIPS = {
    "v4": Chip("v4", 275e12, 31.25 * 2**30, 1.228e12, 4.5e10, 3, 1.05e9, 2),
    "v5e": Chip("v5e", 197e12, 15.75 * 2**30, 8.19e11, 4.5e10, 2, 1.5e9),
    "v5p": Chip("v5p", 459e12, 95.74e9, 2.765e12, 9e10, 3, 1.75e9, 2),
    "v6e": Chip("v6e", 918e12, 31.25 * 2**30, 1.638e12, 9e10, 2, 1.75e9),
    "tpu7x": Chip("tpu7x", 1153e12, 94.75 * 2**30, 3.69e12, 9e10, 3, 2.2e9),
    "a100": Chip("a100", 312e12, 80e9, 2.0e12),
    "h100": Chip("h100", 989e12, 80e9, 3.35e12),
    "h200": Chip("h200", 989e12, 141e9, 4.8e12),
}

# jax.Device.device_kind, lower case, contains → chip; the first match counts.
_KINDS = (
    ("v5 lite", "v5e"),
    ("v5e", "v5e"),
    ("v6 lite", "v6e"),
    ("v6e", "v6e"),
    ("tpu7x", "tpu7x"),
    ("tpu v5", "v5p"),
    ("tpu v4", "v4"),
    ("a100", "a100"),
    ("h100", "h100"),
    ("h200", "h200"),
)


# What the compiler is told for a chip, as jax.jit's compiler_options: they travel with the step, not with a shell.
_LAYOUT: Options = {
    "xla_tpu_use_minor_sharding_for_major_trivial_input": True,
    "xla_tpu_relayout_group_size_threshold_for_reduce_scatter": 1,
    "xla_tpu_assign_all_reduce_scatter_layout": True,
}
_DATA_PARALLEL: Options = {
    "xla_tpu_enable_data_parallel_all_reduce_opt": True,
    "xla_tpu_data_parallel_opt_different_sized_ops": True,
}
_SPARSE_CORE: Options = {  # the SparseCores move data while the TensorCores compute
    option: True
    for kind in ("all_gather", "reduce_scatter", "all_reduce")
    for option in (f"xla_tpu_enable_sparse_core_collective_offload_{kind}", f"xla_tpu_enable_{kind}_offload_tracing")
}
_TORUS: Options = {  # the same where a collective runs over several rings: without these it stays on the TensorCore
    "xla_tpu_enable_sparse_core_collective_offload_2d_all_gather": True,
    "xla_tpu_enable_sparse_core_collective_offload_3d_all_gather": True,
    "xla_tpu_enable_sparse_core_collective_offload_nd_reduce_scatter": True,
}
_FUSED_COLLECTIVES: Options = {  # v5e has no SparseCore; a fusion carries the steps of a collective
    "xla_enable_async_all_reduce": True,
    "xla_enable_async_all_gather": True,
    "xla_tpu_overlap_compute_collective_tc": True,
    "xla_tpu_enable_async_collective_fusion": True,
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": True,
    "xla_tpu_enable_async_collective_fusion_multiple_steps": True,
}
VMEM_OPTION = "xla_tpu_scoped_vmem_limit_kib"  # larger tiles for matrix products; below the chip's real VMEM
_NO_COLLECTIVE_MATMUL: Options = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": 1000000}
_TPU: Options = _LAYOUT | _DATA_PARALLEL | _NO_COLLECTIVE_MATMUL
_XLA_OPTIONS: dict[str, Options] = {
    "v4": _TPU,
    "v5e": _TPU | _FUSED_COLLECTIVES | {VMEM_OPTION: 98304},
    "v5p": _TPU | _SPARSE_CORE | _TORUS | {VMEM_OPTION: 61440},
    "v6e": _TPU | _SPARSE_CORE | _TORUS | {VMEM_OPTION: 98304},
    "tpu7x": _TPU | {VMEM_OPTION: 61440},
}


def xla_options(chip: Chip | None) -> Options:
    """Of a step on this chip; none where nothing is known."""
    return dict(_XLA_OPTIONS.get(chip.name, {})) if chip else {}


def chip_of(device_kind: str) -> Chip | None:
    """The chip that calls itself so; None for one that is not in the table (a CPU, say)."""
    return next((CHIPS[name] for part, name in _KINDS if part in device_kind.lower()), None)


def matmul_params(cfg: ModelConfig) -> int:
    """Numbers in the matrices a token is multiplied with: the linear maps and the head, not the embedding's rows."""
    table = param_table(cfg)
    layers = sum(math.prod(table[f"layers.{name}"].shape(cfg.dims)) for name in LINEAR)
    return layers + cfg.D * cfg.V


def adapter_params(cfg: ModelConfig, lora: LoraConfig) -> int:
    return sum(math.prod(param.shape(lora.dims(cfg))) for param in adapter_table(lora).values())


def step_flops(cfg: ModelConfig, lora: LoraConfig | None, tokens: float, pairs: float) -> float:
    """Arithmetic that a forward and backward pass needs, whatever is recomputed: the numerator of MFU.

    Every matrix costs 2 FLOP a token and number forward, 2 for the gradient of its input, and 2 for its own gradient
    where it is trained: 6N in full training, 4N + 6·adapter with LoRA. Attention costs 4·H·h a layer and (query, key)
    pair forward and twice that backward.

    Args:
      tokens: that carry content (padding is not useful work).
      pairs: (query, key) with the key in the query's segment and not later: Σ n(n+1)/2 over segments of n tokens. A
        row of one segment has about S²/2 (causal attention counts half).
    """
    each = 4 * matmul_params(cfg) + 6 * adapter_params(cfg, lora) if lora else 6 * matmul_params(cfg)
    return each * tokens + 12 * cfg.L * cfg.H * cfg.h * pairs

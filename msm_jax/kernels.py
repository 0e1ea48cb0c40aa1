"""What Pallas attention kernels cost on TPUs. The compiler writes no estimate for a kernel, so one is made: the blocks
that a causal row visits × the VLIW bundles (a cycle each, at least) that the compiler schedules for a block and head.

To add a kernel: a row of KERNELS; to add a measurement: a row of BUNDLES. A kernel's bundles are counted in the file
`*-schedule-analysis_final_bundles.txt` that libtpu writes with
LIBTPU_INIT_ARGS="--xla_jf_dump_to=DIR --xla_jf_dump_llo_text=true".
"""

import dataclasses
import math
import re
from collections.abc import Sequence

from msm_jax.hlo import Op, Program, arrays
from msm_jax.perf import Chip


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One kind of attention kernel, and how to read its call.

    pattern: in the instruction's name, after which the kernel is called; the groups of ours are a block's size.
    blocks: names in the call's metadata of how many queries and keys a block has; () where the name says it.
    products: matrix products [block_q, h] × [h, block_kv], or as large, that a block needs.
    """

    name: str
    pattern: str
    blocks: tuple[str, ...]
    products: int


KERNELS = (
    Kernel("flash_fwd", r"msm_flash_fwd_(\d+)x(\d+)", (), 2),
    Kernel("flash_bwd", r"msm_flash_bwd_(\d+)x(\d+)", (), 5),
    Kernel("splash_fwd", r"splash_\w*_fwd", ("block_q", "block_kv"), 2),
    Kernel("splash_dq", r"splash_\w*_dq", ("block_q_dq", "block_kv_dq"), 3),
    Kernel("splash_dkv", r"splash_\w*_dkv", ("block_q_dkv", "block_kv_dkv"), 4),
    Kernel("splash_dkv_fused", r"$^", ("block_q_dkv", "block_kv_dkv"), 5),  # known by its outputs, see kernel_of
)

BUNDLES = {
    # Ours (model/flash.py), by benchmarks/flash.py: the loop's body, and its share of what runs once a block of queries
    # (350 bundles on v5p) or, backward, once a key head (3218, of eight query heads).
    ("v5p", "flash_fwd"): {(512, 1024): 2777, (1024, 1024): 5669},
    ("v5p", "flash_bwd"): {(1024, 1024): 10117},
    ("v5e", "flash_fwd"): {(512, 1024): 2765},
    ("v5e", "flash_bwd"): {(1024, 1024): 9988},
    ("v6e", "flash_fwd"): {(512, 1024): 1896},
    ("v6e", "flash_bwd"): {(1024, 1024): 5956},
    # (chip, kernel): {(block_q, block_kv): bundles of a block and head, h = 128}; libtpu 0.0.51, blocks of 2048 with
    # 98304 KiB of scoped VMEM
    ("v5p", "splash_fwd"): {(512, 512): 2155, (1024, 1024): 6319, (2048, 2048): 23933},
    ("v5p", "splash_dkv"): {(512, 512): 2620},
    ("v5p", "splash_dq"): {(512, 512): 1930},
    ("v5p", "splash_dkv_fused"): {(1024, 1024): 10430, (2048, 2048): 38976},
    ("v5e", "splash_fwd"): {(512, 512): 2000, (1024, 1024): 6115, (2048, 2048): 22334},
    ("v5e", "splash_dkv"): {(512, 512): 2428},
    ("v5e", "splash_dq"): {(512, 512): 1783},
    ("v5e", "splash_dkv_fused"): {(1024, 1024): 10244, (2048, 2048): 38616},
    ("v6e", "splash_fwd"): {(512, 512): 1466, (1024, 1024): 4638, (2048, 2048): 17043},
    ("v6e", "splash_dkv"): {(512, 512): 1741},
    ("v6e", "splash_dq"): {(512, 512): 1296},
    ("v6e", "splash_dkv_fused"): {(1024, 1024): 6643, (2048, 2048): 24034},
}


@dataclasses.dataclass(frozen=True)
class KernelCost:
    """Of one call. `warning` says what the estimate does not rest on, "" where it rests on a measurement."""

    seconds: float
    flops: float  # of the causal half
    warning: str = ""


def kernel_of(op: Op) -> Kernel | None:
    found = next((k for k in KERNELS if re.search(k.pattern, op.name)), None)
    if found and found.name == "splash_dkv" and any(len(dims) == 4 for _, dims in arrays(op.type)):
        return KERNELS[-1]  # it also puts out dq, a part for every block of keys: [parts, H, S, h]
    return found


def visited_blocks(seq_len: int, block_q: int, block_kv: int) -> int:
    """Blocks of S × S that hold a key which is not later than the query."""
    return sum(-(-min(end, seq_len) // block_kv) for end in range(block_q, seq_len + block_q, block_q))


def cost(program: Program, computation: str, op: Op, chip: Chip) -> KernelCost | None:
    """Of a call of an attention kernel; None of another kernel, or where the call's shapes are not understood."""
    kernel = kernel_of(op)
    if kernel is None:
        return None
    ops = program.computations[computation]
    inputs = [dims for name in op.operands if name in ops for dtype, dims in arrays(ops[name].type) if dtype != "s32"]
    queries = max((dims for dims in inputs if len(dims) >= 3), key=math.prod, default=())
    sizes: Sequence[str | None] = [op.attribute(rf'"?\\?"{name}\\?"?:\s*"?(\d+)') for name in kernel.blocks]
    if not sizes and (named := re.search(kernel.pattern, op.name)):
        sizes = named.groups()
    if not queries or not all(sizes):
        return None
    *heads, S, h = queries
    block_q, block_kv = (int(size) for size in sizes if size)
    calls = visited_blocks(S, block_q, block_kv) * math.prod(heads)
    flops = 2.0 * kernel.products * h * math.prod(heads) * S * S / 2
    bundles, warning = _bundles(chip, kernel, block_q, block_kv)
    if bundles is None:  # half of the peak, which is what good kernels reach on most chips
        return KernelCost(flops / (0.5 * chip.flops), flops, f"{warning}; taken at half of peak")
    return KernelCost(calls * bundles / chip.cores / chip.clock, flops, warning)


def _bundles(chip: Chip, kernel: Kernel, block_q: int, block_kv: int) -> tuple[float | None, str]:
    """Bundles of a block, and a warning where they are not those of just this block."""
    name = f"{kernel.name} with blocks of {block_q} x {block_kv} on {chip.name}"
    known = BUNDLES.get((chip.name, kernel.name))
    if not known:
        return None, f"{name}: no bundle counts"
    if (block_q, block_kv) in known:
        return known[block_q, block_kv], ""
    near = min(known, key=lambda size: abs(math.log(size[0] * size[1] / (block_q * block_kv))))
    scaled = known[near] * (block_q * block_kv) / (near[0] * near[1])
    return scaled, f"{name}: scaled from blocks of {near[0]} x {near[1]}"

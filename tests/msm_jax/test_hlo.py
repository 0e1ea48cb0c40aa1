"""The reader of compiled programs, on programs written by hand in the compiler's language."""

import dataclasses

import pytest

from msm_jax import kernels, schedule
from msm_jax.cli import UserError
from msm_jax.hlo import Program
from msm_jax.perf import CHIPS

V5P = CHIPS["v5p"]
CYCLES = 'backend_config={{"window_config":{{}},"estimated_cycles":"{}"}}'
HEAD = "HloModule step, is_scheduled=true, num_partitions=8\n\n"


def cycles(n):
    return CYCLES.format(n)


def program(entry, *computations):
    """A module: other computations, then the lines of its entry."""
    body = "\n".join(f"  {line}" for line in entry)
    return HEAD + "\n\n".join(computations) + f"\n\nENTRY %main (p: f32[8]) -> f32[8] {{\n{body}\n}}\n"


MATMUL = """%matmul (a: bf16[64,128], b: bf16[128,256]) -> bf16[64,256] {
  %a = bf16[64,128]{1,0} parameter(0)
  %b = bf16[128,256]{1,0} parameter(1)
  ROOT %conv = bf16[64,256]{1,0} convolution(%a, %b), dim_labels=bf_io->bf
}"""
ARGUMENTS = ["%x = bf16[64,128]{1,0} parameter(0)", "%w = bf16[128,256]{1,0} parameter(1)"]
MATMUL_CALL = f"%y = bf16[64,256]{{1,0}} fusion(%x, %w), kind=kOutput, calls=%matmul, {cycles(1750)}"


def report(text, chip=V5P, **kwargs):
    found = schedule.report(text, chip, **{"wrap": (True, True, True)} | kwargs)
    parts = ("matmul", "vector", "copy", "kernel", "exposed_collective")
    assert found["step_seconds"] == pytest.approx(sum(found[f"{part}_seconds"] for part in parts))
    return found


def test_fused_product():
    found = report(program([*ARGUMENTS, MATMUL_CALL], MATMUL))
    assert found["matmul_flops"] == 2 * 64 * 128 * 256
    assert found["matmul_seconds"] == found["step_seconds"] == pytest.approx(1e-6)
    assert not found["warnings"]


@pytest.mark.parametrize(
    ("kernel", "attributes", "taps"),
    [
        ("bf16[128,256]", "dim_labels=bf_io->bf", 128),
        # heads contracted as a spatial dimension
        ("bf16[32,128,256]", "window={size=32}, dim_labels=b0f_0io->b0f", 32 * 128),
        # a batch dimension in disguise: dilated and strided, or padded as wide as the kernel
        ("bf16[8,128,256]", "window={size=8 stride=7 pad=0_0 lhs_dilate=8}, dim_labels=0bf_0io->0bf", 128),
        ("bf16[8,128,256]", "window={size=8 pad=7_7 rhs_reversal=1}, dim_labels=0bf_0io->0bf", 128),
    ],
)
def test_products_written_as_convolutions(kernel, attributes, taps):
    text = f"""%c (a: bf16[64,128], b: {kernel}) -> bf16[64,256] {{
  %a = bf16[64,128]{{1,0}} parameter(0)
  %b = {kernel}{{1,0}} parameter(1)
  ROOT %conv = bf16[64,256]{{1,0}} convolution(%a, %b), {attributes}
}}"""
    assert Program.parse(program(["%x = f32[8]{0} parameter(0)"], text)).matmul_flops("c") == 2 * 64 * 256 * taps


def loop(compare, start=0, step=1, limit="%n = s32[] constant(12)", body_step=None):
    """A while over an element of (counter, limit, x) with a matrix product inside."""
    types = "(s32[], s32[], bf16[64,128], bf16[128,256])"
    body = f"""%body (t: {types}) -> {types} {{
  %t = {types} parameter(0)
  %i = s32[]{{:T(128)}} get-tuple-element(%t), index=0
  %last = s32[] get-tuple-element(%t), index=1
  %x = bf16[64,128]{{1,0}} get-tuple-element(%t), index=2
  %w = bf16[128,256]{{1,0}} get-tuple-element(%t), index=3
  {MATMUL_CALL}
  %one = s32[] constant({step})
  {body_step or "%next = s32[] add(%i, %one)"}
  ROOT %out = {types} tuple(%next, %last, %x, %w)
}}"""
    condition = f"""%condition (t: {types}) -> pred[] {{
  %t = {types} parameter(0)
  {limit}
  %i = s32[] get-tuple-element(%t), index=0
  {compare}
}}"""
    entry = [
        *ARGUMENTS,
        f"%zero = s32[] constant({start})",
        "%twelve = s32[] constant(12)",
        "%copied = s32[] copy(%zero)",
        f"%made = {types} tuple(%copied, %twelve, %x, %w)",
        f"ROOT %loop = {types} while(%made), condition=%condition, body=%body",
    ]
    return program(entry, MATMUL, FUSED_ADD, FUSED_COMPARE, body, condition)


FUSED_ADD = """%fused_add (p: s32[], q: s32[]) -> s32[] {
  %p = s32[] parameter(0)
  %q = s32[] parameter(1)
  ROOT %sum = s32[] add(%q, %p)
}"""
FUSED_COMPARE = """%fused_compare (p: s32[], q: s32[]) -> pred[] {
  %p = s32[] parameter(0)
  %q = s32[] parameter(1)
  ROOT %less = pred[] compare(%q, %p), direction=LT
}"""
LESS = "ROOT %less = pred[] compare(%i, %n), direction=LT"


@pytest.mark.parametrize(
    ("text", "turns"),
    [
        (loop(LESS), 12),
        (loop(LESS, start=2, step=3), 4),
        (loop("ROOT %less = pred[] compare(%i, %n), direction=LE"), 13),
        (loop("ROOT %more = pred[] compare(%n, %i), direction=GT"), 12),
        (loop("ROOT %less = pred[] compare(%i, %n), direction=GT", start=15, step=-1), 3),
        (loop(LESS, limit="%n = s32[] get-tuple-element(%t), index=1"), 12),
        (loop("ROOT %less = pred[] fusion(%n, %i), kind=kLoop, calls=%fused_compare"), 12),
        (loop(LESS, body_step="%next = s32[] fusion(%one, %i), kind=kLoop, calls=%fused_add"), 12),
    ],
)
def test_trip_counts(text, turns):
    found = report(text)
    assert found["matmul_flops"] == turns * 2 * 64 * 128 * 256
    assert found["matmul_seconds"] == pytest.approx(turns * 1e-6)
    assert not found["warnings"]


def test_a_loop_that_is_not_understood_is_said():
    found = report(loop(LESS, body_step="%next = s32[] multiply(%i, %one)"))
    assert found["matmul_flops"] == 2 * 64 * 128 * 256
    assert "loop loop: number of turns not understood" in found["warnings"][0]


GATHER = "all-gather{}(%s), replica_groups={{{{0,1,2,3,4,5,6,7}}}}, dimensions={{0}}"
SHARD, WHOLE = "bf16[1024,4096]", "bf16[8192,4096]"
WHOLE_BYTES = 8192 * 4096 * 2
GATHER_SECONDS = WHOLE_BYTES * 7 / 8 / (3 * 2 * 9e10 * 0.8) + 1e-6
SHARD_LINE = f"%s = {SHARD}{{1,0}} parameter(2)"


def test_a_synchronous_collective_is_waited_for():
    gather = f'%g = {WHOLE}{{1,0}} {GATHER.format("")}, metadata={{op_name="jit(step)/jvp()/while/body/gather"}}'
    found = report(program([SHARD_LINE, gather]))
    assert found["exposed_collective_seconds"] == pytest.approx(GATHER_SECONDS)
    (row,) = found["collectives"]
    assert (row["kind"], row["for"], row["count"]) == ("all-gather", "forward", 1)
    assert row["bytes"] == WHOLE_BYTES * 7 / 8


def test_open_rings_have_half_the_bandwidth():
    text = program([SHARD_LINE, f"%g = {WHOLE}{{1,0}} {GATHER.format('')}"])
    opened, closed = (report(text, wrap=(wrap,) * 3)["collectives"][0]["seconds"] for wrap in (False, True))
    assert opened - 1e-6 == pytest.approx(2 * (closed - 1e-6))


@pytest.mark.parametrize(("busy", "exposed"), [(1e-6, GATHER_SECONDS - 1e-6), (10 * GATHER_SECONDS, 0.0)])
def test_an_asynchronous_collective_hides_behind_computation(busy, exposed):
    start = f"%start = ({SHARD}{{1,0}}, {WHOLE}{{1,0}}) {GATHER.format('-start')}"
    done = f"%done = {WHOLE}{{1,0}} all-gather-done(%start)"
    product = MATMUL_CALL.replace("1750", str(round(busy * 1.75e9)))
    found = report(program([*ARGUMENTS, SHARD_LINE, start, product, done], MATMUL))
    assert found["exposed_collective_seconds"] == pytest.approx(exposed, abs=1e-9)
    assert found["collectives"][0]["bytes"] == WHOLE_BYTES * 7 / 8


def sparse_core(kind, output):
    """A collective that a SparseCore runs: async-start() without operands, which async-update brings."""
    inner = f"""%on_sparse_core (q: {WHOLE}) -> {output} {{
  %q = {WHOLE}{{1,0}} parameter(0)
  ROOT %reduce = {output}{{1,0}} {kind}(%q), replica_groups={{{{0,1,2,3,4,5,6,7}}}}, to_apply=%add
}}, execution_thread="sparsecore" """.rstrip()
    outer = f"""%async_computation (q: {WHOLE}) -> {output} {{
  %q = {WHOLE}{{1,0}} parameter(0)
  ROOT %call = {output}{{1,0}} custom-call(%q), custom_call_target="x", called_computations={{%on_sparse_core}}
}}, execution_thread="sparsecore" """.rstrip()
    entry = [
        *ARGUMENTS,
        f"%g = {WHOLE}{{1,0}} parameter(2)",
        '%start = ((), (), (s32[230065152]{0})) async-start(), async_execution_thread="sparsecore", calls=%async_computation',
        MATMUL_CALL,
        f"%update = (({WHOLE}{{1,0}}), {output}{{1,0}}, s32[25]{{0}}) async-update(%start, %g)",
        MATMUL_CALL.replace("%y", "%y2").replace("1750", "17500000"),
        f"%done = {output}{{1,0}} async-done(%update)",
    ]
    return program(entry, MATMUL, inner, outer)


@pytest.mark.parametrize(("kind", "output", "share"), [("all-reduce", WHOLE, 2.0), ("reduce-scatter", SHARD, 1.0)])
def test_sparse_core_collectives(kind, output, share):
    found = report(sparse_core(kind, output))
    (row,) = found["collectives"]
    assert (row["kind"], row["count"], row["bytes"]) == (kind, 1, share * WHOLE_BYTES * 7 / 8)
    assert found["exposed_collective_seconds"] == 0.0  # ten milliseconds of products lie between
    assert found["copy_seconds"] == 0.0


def test_an_all_reduce_of_which_a_slice_is_kept_is_a_reduce_scatter():
    fused = f"""%scatter (q: {WHOLE}) -> {SHARD} {{
  %q = {WHOLE}{{1,0}} parameter(0)
  %sum = {WHOLE}{{1,0}} all-reduce(%q), replica_groups=[1,8]<=[8], to_apply=%add
  %n = s32[] constant(0)
  ROOT %part = {SHARD}{{1,0}} dynamic-slice(%sum, %n, %n), dynamic_slice_sizes={{1024,4096}}
}}"""
    call = (
        f"%r = {SHARD}{{1,0}} fusion(%g), kind=kCustom, calls=%scatter, "
        'metadata={op_name="jit(step)/transpose(jvp())/dot_general"}'
    )
    found = report(program([f"%g = {WHOLE}{{1,0}} parameter(0)", call], fused))
    (row,) = found["collectives"]
    assert (row["kind"], row["for"], row["bytes"]) == ("reduce-scatter", "gradient", WHOLE_BYTES * 7 / 8)


def test_collectives_between_slices_are_guessed_and_say_so():
    array = "f32[1024,1024]{1,0}"
    entry = [
        f"%g = {array} parameter(0)",
        "%token = token[] after-all()",
        f"%send = ({array}, u32[], token[]) send(%g, %token), channel_id=2, is_host_transfer=true",
        f"%recv = ({array}, u32[], token[]) recv(%token), channel_id=2, is_host_transfer=true",
        "%sent = token[] send-done(%send)",
        f"%received = ({array}, token[]) recv-done(%recv)",
    ]
    found = report(program(entry), slices=2)
    assert found["exposed_collective_seconds"] == pytest.approx(4 * 2**20 / schedule.DCN_BANDWIDTH)
    assert found["collectives"][0]["kind"] == "between slices"
    assert "guess" in found["warnings"][0]


@pytest.mark.parametrize(
    "start",
    [
        "%c = (f32[1048576]{0:S(5)}, f32[1048576]{0}, u32[]) copy-start(%x)",
        "%c = ((f32[8,1048576]{1,0:S(5)}), f32[1048576]{0}, u32[]) async-start(%x), calls=%sliced",
    ],
)
def test_transfers_to_the_host(start):
    sliced = """%sliced (p: f32[8,1048576]) -> f32[1048576] {
  %p = f32[8,1048576]{1,0:S(5)} parameter(0)
  ROOT %s = f32[1048576]{0} slice(%p), slice={[0:1]}
}"""
    done = start.split(" = ")[1].split("-start")[0].split()[-1]
    found = report(
        program(["%x = f32[1048576]{0} parameter(0)", start, f"%d = f32[1048576]{{0}} {done}-done(%c)"], sliced)
    )
    assert found["host_bytes"] == 2**22
    assert found["copy_seconds"] == pytest.approx(2**22 / schedule.HOST_BANDWIDTH)


KERNEL = """%{name} = (bf16[32,8192,128]{{2,1,0}}, f32[32,8192]{{1,0}}) custom-call(%q, %k), custom_call_target="tpu_custom_call", frontend_attributes={{kernel_metadata={{
"xprof_metadata":"{{\\"block_q\\": {block}, \\"block_kv\\": {block}}}"
}}}}, metadata={{op_name="jit(step)/jvp()/while/body/shard_map"}}"""


def kernel(name, block=1024):
    entry = [
        "%q = bf16[32,8192,128]{2,1,0} parameter(0)",
        "%k = bf16[8,8192,128]{2,1,0} parameter(1)",
        KERNEL.format(name=name, block=block),
        f"%after = f32[8]{{0}} add(%q, %q), {cycles(1750)}",
    ]
    return program(entry)


def test_attention_kernels_cost_their_blocks():
    found = report(kernel("splash_mha_fwd_residuals.1"))
    assert kernels.visited_blocks(8192, 1024, 1024) == 36
    assert found["kernel_seconds"] == pytest.approx(36 * 32 * 6319 / 2 / 1.75e9)
    assert found["kernel_flops"] == 2 * 2 * 128 * 32 * 8192 * 8192 / 2
    assert found["vector_seconds"] == pytest.approx(1e-6)  # the lines after the kernel's metadata are read
    assert not found["warnings"]


def test_our_kernels_say_their_blocks_in_their_names():
    found = report(kernel("msm_flash_fwd_512x1024.3"))
    assert kernels.visited_blocks(8192, 512, 1024) == 72
    bundles = kernels.BUNDLES["v5p", "flash_fwd"][512, 1024]
    assert found["kernel_seconds"] == pytest.approx(72 * 32 * bundles / 2 / 1.75e9)
    assert not found["warnings"]


def test_kernels_without_a_measurement_are_warned_of():
    scaled = report(kernel("splash_mha_fwd.1", block=256))
    assert scaled["kernel_seconds"] > 0
    assert "scaled from blocks of 512" in scaled["warnings"][0]
    name = f"unmeasured_{kernels.KERNELS[0].name}"
    lone = dataclasses.replace(V5P, name=name)
    half = report(kernel("splash_mha_fwd.1"), chip=lone)
    assert half["kernel_seconds"] == pytest.approx(half["kernel_flops"] / 0.5 / V5P.flops)
    assert "half of peak" in half["warnings"][0]
    unknown = report(kernel("some_kernel.1"))
    assert unknown["kernel_seconds"] > 0
    assert "kernel some_kernel.1: no model" in unknown["warnings"][0]


def test_an_estimate_that_is_none():
    found = report(program(["%x = f32[8]{0} parameter(0)", f"%y = f32[8]{{0}} add(%x, %x), {cycles(2**63 - 1)}"]))
    assert found["step_seconds"] == 0.0


def test_what_is_no_program():
    with pytest.raises(UserError, match="no ENTRY"):
        schedule.report("nothing", V5P)


def test_every_number_has_a_method():
    found = report(program([*ARGUMENTS, MATMUL_CALL], MATMUL))
    named = {key for key in found if key.endswith("_seconds") or key in ("matmul_flops", "collectives")}
    assert named <= schedule.METHODS.keys()

"""How many cycles the attention kernels take, by the compiler's own schedule, beside JAX's splash attention.

    python benchmarks/flash.py [chip] [--json=FILE]       chips: v5p (default), v5e, v6e; needs libtpu, no TPU

For every kernel and size of block: VLIW bundles (a cycle each, at least) of the loop's body, what runs once a block of
queries, and both over a causal row of 8192 tokens, h = 128, in thousands a head. `docs/performance.md` and
`msm_jax/kernels.py` have the results. Bundles are what the compiler schedules, not what a chip was seen to take.
"""

import functools
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

S, H, K, h = 8192, 8, 2, 128
TOPOLOGY = {"v5p": "v5p:2x2x1", "v5e": "v5e:1x1", "v6e": "v6e:1x1"}
SIZES = ((512, 512), (512, 1024), (1024, 512), (1024, 1024), (1024, 2048), (2048, 1024), (2048, 2048))
# What the loop over blocks is replaced by: nothing, or only blocks that need no mask.
BODIES = {"none": lambda ranges, block: None, "whole": lambda ranges, block: _loop(ranges, block)}


def _loop(ranges, block):
    import jax

    a, _, _, e = ranges
    jax.lax.fori_loop(a, e, lambda j, _: block(j, False), None)


def bundles(chip, kind, block_q, block_k, body):
    """Compiles one kernel in this process, whose LIBTPU_INIT_ARGS say where the schedule goes."""
    import jax
    import jax.numpy as jnp

    from msm_jax import perf, topology
    from msm_jax.model import flash

    device = topology.devices(topology.parse(TOPOLOGY[chip]))[:1]
    sharding = jax.NamedSharding(jax.sharding.Mesh(device, ("x",)), jax.P())

    def array(*shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    q, k, start = array(1, H, S, h), array(1, K, S, h), array(1, S, dtype=jnp.int32)
    lse = array(1, H, 1, S, dtype=jnp.float32)
    if kind.startswith("splash"):
        run, arguments = _splash(block_q), (q, k, k, start)
    elif kind == "fwd":
        blocks = flash.Blocks(q=block_q, k=block_k)
        flash._visit = BODIES[body]
        run, arguments = functools.partial(flash._forward, blocks=blocks, interpret=False), (q, k, k, start)
    else:
        blocks = flash.Blocks(q_back=block_q, k_back=block_k)
        flash._visit = BODIES[body]
        run = lambda *a: flash._backward(a[:6], a[6], blocks, False)  # noqa: E731
        arguments = (q, k, k, start, q, lse, q)
    options = perf.xla_options(perf.CHIPS[chip])
    lowered = jax.jit(run).trace(*arguments).lower(lowering_platforms=("tpu",))
    lowered.compile(compiler_options={perf.VMEM_OPTION: options[perf.VMEM_OPTION]})


def _splash(block):
    """Forward and fused backward of JAX's own kernel, with its best settings."""
    import jax
    import jax.numpy as jnp
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as mask

    names = ("block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv", "block_kv_dkv_compute")
    sizes = kernel.BlockSizes(**dict.fromkeys(names, block), use_fused_bwd_kernel=True)
    causal = mask.MultiHeadMask([mask.CausalMask((S, S)) for _ in range(H)])
    attend = kernel.make_splash_mha(causal, head_shards=1, q_seq_shards=1, block_sizes=sizes)

    def loss(q, k, v, start):
        out = attend(q[0], k[0], v[0], segment_ids=kernel.SegmentIds(start[0], start[0]))
        return jnp.sum(out.astype(jnp.float32))

    return jax.grad(loss, argnums=(0, 1, 2))


def counted(chip, kind, block_q, block_k, body="whole"):
    """{kernel's name: bundles}, compiled in a process of its own: the dump's place is an option of the process."""
    from msm_jax import topology

    with tempfile.TemporaryDirectory() as place:
        environment = dict(os.environ)
        topology.prepare(environment)
        environment["LIBTPU_INIT_ARGS"] = f"--xla_jf_dump_to={place} --xla_jf_dump_llo_text=true"
        asked = json.dumps([chip, kind, block_q, block_k, body])
        done = subprocess.run([sys.executable, __file__, "--child", asked], env=environment, capture_output=True)
        found = {}
        for file in Path(place).rglob("*schedule-analysis_final_bundles.txt"):
            name = re.search(r"(msm_flash|splash)_\w+", file.name)
            if name:
                text = file.read_text()
                found[name[0]] = int(re.search(r"non empty scheduled bundles: (\d+)", text)[1])
    if not found and done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        print(f"{chip} {kind} {block_q} x {block_k}: {' '.join(said)[:200]}", file=sys.stderr)
    return found


def visited(block_q, block_k):
    return sum(-(-end // block_k) for end in range(block_q, S + 1, block_q))


def main():
    arguments = sys.argv[1:]
    if arguments[:1] == ["--child"]:
        return bundles(*json.loads(arguments[1]))
    chip = next((a for a in arguments if not a.startswith("-")), "v5p")
    if chip not in TOPOLOGY:
        sys.exit(f"error: {chip}: one of {', '.join(TOPOLOGY)}")
    rows = []
    print(f"{chip}: bundles of a block, of what runs once a block of queries, and thousands a causal row and head")
    for kind in ("fwd", "bwd"):
        for block_q, block_k in SIZES:
            values = [sum(counted(chip, kind, block_q, block_k, body).values()) for body in ("whole", "none")]
            if not all(values):
                continue
            body, once = values[0] - values[1], values[1]
            total = (visited(block_q, block_k) * body + S // block_q * once) / 1000
            rows.append({"chip": chip, "kernel": kind, "q": block_q, "k": block_k, "body": body, "once": once})
            print(f"ours   {kind} {block_q:4} x {block_k:4}  {body:6} {once:5} {total:8.0f}", flush=True)
    for block in (512, 1024, 2048):
        for name, count in sorted(counted(chip, "splash", block, block).items()):
            total = visited(block, block) * count / 1000
            rows.append({"chip": chip, "kernel": name, "q": block, "k": block, "body": count})
            print(f"splash {name} {block:4} x {block:4}  {count:6}       {total:8.0f}", flush=True)
    for argument in arguments:
        if argument.startswith("--json="):
            Path(argument.removeprefix("--json=")).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

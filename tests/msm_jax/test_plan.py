"""The planner. Quick tests replace the compiler by its answers; those marked aot compile for TPUs (make test-aot)."""

import dataclasses
import importlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from msm_jax import aot, artifact, cli, estimate, plan, plan_search, topology
from msm_jax.cli import UserError
from tests.conftest import ROOT

GB = 1e9
SHAPE = {"D": 64, "L": 2, "H": 4, "K": 4, "h": 16, "F": 128, "V": 256}
CONFIG = """
from configs import common

def get_config():
    config = common.get_config()
    config.model.update({shape!r})
    config.model.dtype = config.model.param_dtype = ""
    config.model.remat = "full"
    config.data.update({{"seq_len": 128, "batch_rows": 8, "sources": ("nowhere",)}})
    config.optim.steps = 100
    return config
"""


REMAT = ("full", "none")


@pytest.fixture
def config(tmp_path):
    """--config=FILE of a small model."""
    path = tmp_path / "small.py"
    path.write_text(CONFIG.format(shape=SHAPE))
    return f"--config={path}"


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """A compiler that answers at once: memory as if each fsdp member needed 10 GB over its number, a second a step.

    Gives the list of requests it got.
    """
    monkeypatch.setenv("MSM_JAX_CACHE", str(tmp_path / "cache"))
    for module in (plan_search, estimate):  # fewer of them make a shorter search
        monkeypatch.setattr(module, "REMAT", REMAT)
    asked = []

    def answer(request, cache, scratch):
        asked.append(request)
        settings = cli.flatten(cli.parse_config(["", *request.arguments]))
        where = topology.parse(request.topology)
        peak = 100 * GB / where.device_count * (1 + REMAT.index(settings["model.remat"]))
        peak /= settings["optim.accumulate"]
        result = {
            "topology": {"name": where.name, "chips": where.chips},
            "mesh": {"replica": 1, "fsdp": where.device_count, "ring": 1, "tensor": 1},
            "versions": aot.versions(),
            "model": SHAPE | {"dtype": "bfloat16"},
            "lora": None,
            "classes": {"weights": 10**9, "frozen": 0, "optimizer": 2 * 10**9, "batch": 1024},
            "seq_len": request.seq_len,
        }
        if peak > where.chip.hbm:
            return result | {"error": {"kind": "memory", "needed": peak, "capacity": where.chip.hbm, "message": "…"}}
        result["memory"] = {"peak_memory_in_bytes": peak, "temp_size_in_bytes": 10**9, "moved_state": []}
        if not request.memory_only:
            keys = ("step", "matmul", "vector", "copy", "kernel", "exposed_collective", "host")
            seconds = settings["optim.accumulate"] * (2 - REMAT.index(settings["model.remat"]))
            parts = {f"{key}_seconds": float(seconds) for key in keys}
            result["schedule"] = parts | {"host_bytes": 0.0, "collectives": [], "longest": [], "warnings": []}
        return result

    monkeypatch.setattr(aot, "_in_child", answer)
    monkeypatch.setattr(topology, "require_libtpu", lambda: None)
    return asked


def run(*args):
    """The command; 0 or its exit status."""
    try:
        plan.main(["", *args])
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "give one of --topology=v5p:4x4x4"),
        (["--topology=v5p:4x4x4", "--smallest=v5p"], "give one of"),
        (["--topolgy=v5p:4x4x4"], "did you mean --topology?"),
        (["v5p:4x4x4"], "unexpected argument 'v5p:4x4x4'"),
        (["--topology=v5p:4x4x4", "--seq_len=long"], "--seq_len=long"),
        (["--topology=v5p:4x4x4", "--seq_len=-8"], "must not be negative"),
        (["--topology=v5p:4x4x4", "--search=maybe"], "--search=maybe"),
        (["--smallest=v5p", "--search"], "add --topology="),
        (["--topology=v5p:4x4x4", "--config.optim.lrr=1"], "did you mean --config.optim.lr=…?"),
        (["--topology=v5p:4x4x4", "--prices=nowhere.toml"], "nowhere.toml: No such file"),
        (["--topology=v7:4x4x4"], "no generation 'v7'"),
        (["--smallest=v7"], "--smallest=v7: one of v4"),
        (["--topology=v5p:4x4x4", "--config.data.seq_len=0"], "add --seq_len=8192"),
    ],
)
def test_mistakes_are_one_line(config, compiler, args, message):
    with pytest.raises(UserError) as found:
        run(config, *args)
    assert message in str(found.value)
    assert "\n" not in str(found.value)
    assert not compiler


def test_a_report(config, compiler, tmp_path, capsys):
    out = tmp_path / "plan.json"
    assert run(config, "--topology=v5e:4x4", f"--out={out}") == 0
    said = capsys.readouterr().out
    for part in ("fits", "6.25 GB of 16.91 GB", "weights", "tokens/s/chip", estimate.CAVEAT, "config.optim.steps", "$"):
        assert part in said
    report = json.loads(out.read_text())
    assert report["memory_per_device"]["rest"] == 6.25 * GB - 3 * GB - 1024
    assert report["speed"]["tokens_per_second_per_chip"] == 8 * 128 / 2 / 16
    assert report["cost"]["tokens"] == 100 * 8 * 128
    assert report["cost"]["hours"] == pytest.approx(200 / 3600)
    assert report["cost"]["usd"]["on_demand"] == pytest.approx(200 / 3600 * 16 * 1.20)
    assert report["versions"].keys() >= {"jax", "libtpu"}
    assert report["methods"]


def test_an_answer_is_kept(config, compiler, tmp_path, capsys):
    run(config, "--topology=v5e:4x4")
    first = capsys.readouterr().out
    run(config, "--topology=v5e:4x4", "--config.out=elsewhere", "--config.data.seed=3")  # change no program
    assert capsys.readouterr().out == first
    assert len(compiler) == 1
    run(config, "--topology=v5e:4x4", "--config.optim.lr=0.1")
    assert len(compiler) == 2
    copy = tmp_path / "copied"
    (tmp_path / "cache").rename(copy)
    run(config, "--topology=v5e:4x4", f"--cache={copy}")
    assert len(compiler) == 2


def test_what_does_not_fit_says_by_how_much_and_what_helps(config, compiler, capsys):
    assert run(config, "--topology=v5e:2x2", "--config.model.remat=none") == 1
    said = capsys.readouterr().out
    assert "NO, 33.09 GB too much" in said
    assert f"--config.model.remat={REMAT[-2]}" in said
    assert "--topology=v5e:2x4" in said
    assert "--config.optim.loss_chunk=1024" in said


def test_no_price_is_said(config, compiler, capsys):
    run(config, "--topology=tpu7x:2x2x1")
    assert "no price" in capsys.readouterr().out


def test_several_topologies(config, compiler, capsys):
    assert run(config, "--topologies=v5e:2x2,v5e:2x4", "--config.mesh.fsdp=8") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "25.0/16.9 GB NO" in lines[1]
    assert "mesh.fsdp=4" in lines[1]
    assert "12.5/16.9 GB" in lines[2]
    assert "mesh.fsdp" not in lines[2]


def test_the_smallest_slice(config, compiler, capsys):
    assert run(config, "--smallest=v5e") == 0
    assert [(r.topology, r.memory_only) for r in compiler] == [
        ("v5e:1x1", True),
        ("v5e:1x1", True),  # with less memory: one row at a time
        ("v5e:1x1", False),
    ]
    last = capsys.readouterr().out.splitlines()[-2]
    assert last.startswith("v5e:1x1")
    assert "optim.accumulate=8" in last


def test_the_smallest_slice_has_a_mesh_that_divides_the_rows(config, compiler):
    assert run(config, "--smallest=v5e", "--config.data.batch_rows=4", "--memory_only") == 0
    assert [r.topology for r in compiler] == ["v5e:1x1", "v5e:1x1", "v5e:2x2", "v5e:2x4"]
    assert "--config.mesh.fsdp=4" in compiler[-1].arguments
    assert "--config.mesh.tensor=2" in compiler[-1].arguments


def test_a_search_prunes_resumes_and_names_the_fastest(config, compiler, capsys, tmp_path):
    out = tmp_path / "search.json"
    flags = (config, "--topology=v5e:2x4", "--search", "--rows=16", "--config.optim.loss_chunk=64", f"--out={out}")
    assert run(*flags) == 0
    said = capsys.readouterr()
    assert "at most" in said.err
    reports = json.loads(out.read_text())["reports"]
    rates = [plan_search._rate(report) for report in reports]
    assert rates == sorted(rates, reverse=True)
    assert " ".join(reports[0]["overrides"]) in said.out
    # 16 rows on fsdp 8: two microbatches of 1 row each fit with any recomputation, one of 2 only with all of it
    tried = {tuple(r["overrides"]) for r in reports if "--config.mesh.tensor=1" in r["overrides"]}
    assert len(tried) == 4
    before = len(compiler)
    run(*flags)
    assert len(compiler) == before


def test_pruning_follows_what_is_kept():
    misfit = plan_search.Candidate(16, 8, 1, 1, REMAT[0])
    for remat, accumulate in itertools.product(REMAT, (1, 2)):
        candidate = dataclasses.replace(misfit, remat=remat, accumulate=accumulate)
        assert plan_search.needs_as_much(candidate, misfit) == (accumulate == 1)
    assert not plan_search.needs_as_much(dataclasses.replace(misfit, fsdp=4, tensor=2), misfit)
    larger = plan_search.Candidate(16, 8, 1, 1, REMAT[-1])
    assert not plan_search.needs_as_much(misfit, larger)


def test_prices_are_dated_and_checked(tmp_path):
    prices = estimate.read_prices()
    assert prices["date"] > "2026"
    assert set(prices["usd_per_chip_hour"]) <= set(topology.GENERATIONS)
    bad = tmp_path / "prices.toml"
    for text in ("", "date = 3", 'date = "x"\nsource = "y"\n[usd_per_chip_hour.v5p]\non_demand = "much"'):
        bad.write_text(text)
        with pytest.raises(UserError, match="not a price file"):
            estimate.read_prices(bad)


def test_memory_with_something_on_the_host_is_a_bound():
    sizes = {"argument": 3e9, "temp": 4e9, "output": 2e9, "generated_code": 1e8, "alias": 2e9, "host_temp": 5e9}
    found = {f"{name}_size_in_bytes": size for name, size in sizes.items()} | {"peak_memory_in_bytes": 8e9}
    memory = estimate.memory({"classes": {"weights": 3e9}, "memory": found}, topology.parse("v5e:2x2"))
    assert (memory["peak"], memory["peak_is_bound"], memory["host"]) == (7.1e9, True, 5e9)


@pytest.mark.parametrize(
    ("message", "kind", "needed"),
    [
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
            "Used 21.50G of 15.75G hbm. Exceeded hbm capacity by 5.75G.",
            "memory",
            21.5 * 2**30,
        ),
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (58.81G) exceeds available HBM (15.75G).",
            "memory",
            58.81 * 2**30 + 7,
        ),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 23.8M of 16.0M vmem.", "compile", None),
        ("INTERNAL: something\nelse", "compile", None),
    ],
)
def test_refusals(message, kind, needed):
    found = aot.explained(message, arguments=7)
    assert found["kind"] == kind
    assert found.get("needed") == pytest.approx(needed) if needed else "\n" not in found["message"]


def test_an_abort_is_one_line_and_leaves_nothing(config, monkeypatch, tmp_path):
    child = tmp_path / "child.py"
    child.write_text(
        f"#!{sys.executable}\nimport os, sys\n"
        "sys.stderr.write('F1121 fusion_util.cc:5207] Check failed: split of a padded dim\\n*** trace\\n')\n"
        "sys.stderr.flush()\nos.abort()\n"
    )
    monkeypatch.setattr(aot.sys, "executable", str(child))
    child.chmod(0o755)
    monkeypatch.setattr(topology, "require_libtpu", lambda: None)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(aot.tempfile, "tempdir", None)
    request = aot.Request((config,), "v5e:2x2", 128)
    error = aot.run(request, tmp_path / "cache")["error"]
    assert error["kind"] == "aborted"
    assert "SIGABRT" in error["message"]
    assert "split of a padded dim" in error["message"]
    assert "\n" not in error["message"]
    assert not list((tmp_path / "scratch").iterdir())
    assert not list((tmp_path / "cache" / "plans").iterdir())


def test_rows_and_budget_come_from_shards_where_they_are(toy):
    config = cli.parse_config(["", "--config=configs/common.py", f"--config.data.sources=('{toy.shards('base')}',)"])
    counts = artifact.read_manifest(toy.shards("base"), "shards")["counts"]
    rows = estimate.rows_of(config)
    assert (rows.seq_len, rows.count, rows.fill) == (counts["seq_len"], counts["rows"], counts["fill"])
    assert 0 < rows.pairs < rows.seq_len * (rows.seq_len + 1) / 2
    with config.unlocked():
        config.optim.steps = 0
    assert estimate.budget(config, rows)[0] == counts["rows"] * counts["seq_len"]
    with pytest.raises(UserError, match="has rows of"):
        estimate.rows_of(config, rows.seq_len + 1)


def test_large_replicated_arrays_are_found():
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Explicit,))

    def array(*spec):
        return jax.ShapeDtypeStruct((1024, 1024), jnp.float32, sharding=jax.NamedSharding(mesh, jax.P(*spec)))

    tree = {"split": array("fsdp"), "whole": array()}
    assert aot.large_replicated(tree, limit=2**20) == ["whole"]
    assert aot.large_replicated(tree, limit=2**22) == []
    assert aot.device_bytes(tree) == 2**22 + 2**19
    assert aot.misplaced({"a": tree["split"].sharding}, {"a": tree["split"]}) == []
    assert aot.misplaced({"a": tree["split"].sharding}, {"a": tree["whole"]}) == ["a"]


@pytest.mark.parametrize("rank", [0, 4])
def test_gradients_lie_like_what_they_belong_to(config, rank):
    """By type, so on every hardware: nothing large is whole anywhere between the backward pass and the update."""
    from msm_jax import data
    from msm_jax.mesh import make_mesh
    from msm_jax.model import transformer
    from msm_jax.step import make_gradient, placed

    model, lora = aot.shapes(cli.parse_config(["", config, f"--config.lora.rank={rank}"]))
    mesh = make_mesh(1, 4, 2)
    with jax.sharding.set_mesh(mesh):
        graph, params, adapter = transformer.abstract(model, lora)
        trained, frozen = (adapter, params) if lora else (params, {})
        gradient = make_gradient(graph, lora is not None, 0, 1)
        *_, found = jax.eval_shape(gradient, trained, frozen, data.abstract_batch(8, 1, 128))
    assert aot.misplaced(jax.tree.map(lambda x: x.sharding, placed(found, mesh)), trained) == []


# ----------------------------------------------------------------------------------- compilations for TPUs, make test-aot


def slices():
    """(--config value, topology) of every shipped configuration that names slices."""
    for path in sorted((ROOT / "configs").glob("*.py")):
        module = importlib.import_module(f"configs.{path.stem}")
        for table, variant in (("SLICES", ""), ("SLICES_FULL", ":full")):
            for name in getattr(module, table, {}).values():
                yield f"configs/{path.name}{variant}", name


@pytest.fixture(scope="session")
def aot_cache(tmp_path_factory):
    """$MSM_JAX_CACHE, so that what was compiled before need not be again; else a directory of this session."""
    return Path(os.environ.get("MSM_JAX_CACHE") or tmp_path_factory.mktemp("aot"))


def compiled(cache, config, name, *overrides, seq_len=128, **kwargs):
    return aot.run(aot.Request((config, *overrides), name, seq_len, **kwargs), cache)


LORA = ("--config.lora.rank=4", "--config.init_from=nowhere")


@pytest.mark.aot
@pytest.mark.parametrize("overrides", [(), LORA, ("--config.optim.accumulate=2",)], ids=["full", "lora", "accumulate"])
def test_the_step_compiles_and_stays_where_it_is(config, aot_cache, overrides):
    found = compiled(aot_cache, config, "v5e:2x2", *overrides)
    assert "error" not in found, found
    assert found["memory"]["moved_state"] == []
    assert found["large_replicated"] == []
    # Of attention kernels only blocks of real sizes were counted.
    assert all("scaled from blocks" in warning for warning in found["schedule"]["warnings"])
    held = sum(found["classes"].values())
    assert held <= found["memory"]["argument_size_in_bytes"] * 1.001 + 4096
    assert found["memory"]["peak_memory_in_bytes"] < topology.parse("v5e:2x2").chip.hbm
    assert found["schedule"]["step_seconds"] > 0
    kinds = {row["kind"] for row in found["schedule"]["collectives"]}
    assert kinds & {"all-gather", "collective-permute"}


@pytest.mark.aot
def test_products_are_all_counted(config, aot_cache):
    """With everything recomputed, the step's matrix products are at least those of the model."""
    from msm_jax import perf
    from msm_jax.model.config import ModelConfig

    found = compiled(aot_cache, config, "v5e:2x2")
    model = ModelConfig(**found["model"])
    needed = perf.step_flops(model, None, 8 * 128, 0) / 4
    assert 1.0 <= found["schedule"]["matmul_flops"] / needed < 2.5


@pytest.mark.aot
def test_two_slices(config, aot_cache):
    found = compiled(aot_cache, config, "v5p:2x2x1*2", "--config.mesh.replica=2")
    assert found["mesh"] == {"replica": 2, "fsdp": 4, "ring": 1, "tensor": 1}
    assert "between slices" in {row["kind"] for row in found["schedule"]["collectives"]}
    with pytest.raises(UserError, match="must be a multiple of the 2 slices"):
        compiled(aot_cache, config, "v5p:2x2x1*2")


@pytest.mark.aot
def test_an_executable_is_kept(config, aot_cache):
    found = compiled(aot_cache, config, "v5e:2x2", memory_only=True, executable=True)
    assert (aot_cache / "programs" / found["program"] / "executable.pickle").stat().st_size > 1000


@pytest.mark.aot
def test_a_model_that_does_not_fit(config, aot_cache):
    found = compiled(aot_cache, config, "v5e:2x2", "--config.model.L=1000000", memory_only=True)
    assert found["error"]["kind"] == "memory"
    assert found["error"]["needed"] > found["error"]["capacity"]


@pytest.mark.aot
def test_the_command_on_a_real_compiler(config, tmp_path):
    command = [sys.executable, "-m", "msm_jax.plan", config, f"--cache={tmp_path}", "--memory_only"]
    for name, status in (("v5e:1x1", 0), ("v5e:2x2*2", 2)):
        done = subprocess.run([*command, f"--topology={name}"], capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        assert status == 0 or done.stderr.strip().startswith("error: ")


@pytest.mark.aot
@pytest.mark.parametrize(("config_file", "name"), [*slices()])
def test_shipped_configurations_fit_their_slices(config_file, name, aot_cache):
    arguments = f"--config={config_file}"
    seq_len = cli.parse_config(["", arguments]).data.seq_len
    found = compiled(aot_cache, arguments, name, seq_len=seq_len, memory_only=True)
    assert "error" not in found, found["error"]
    assert found["memory"]["peak_memory_in_bytes"] <= topology.parse(name).chip.hbm
    assert found["memory"]["moved_state"] == []
    assert found["large_replicated"] == []

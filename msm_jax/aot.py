"""Compiles the train step for TPUs that are not there. `run` starts a process for it, because an error in libtpu may
abort the process it is in; that process is this module's main.

What is compiled is what train.py runs: the same model, optimizer, step and options, on ShapeDtypeStructs placed on the
topology's mesh. Results are kept twice: by request (an answer at once), and by the lowered program (a change of code
that leaves the program alone costs no compilation). Both are files that can be copied to another machine.

jax.experimental.serialize_executable works on a step that was compiled for a topology; `executable=True` keeps it
beside the program. Loading it needs the same libtpu and as many chips.
"""

import contextlib
import dataclasses
import gzip
import json
import math
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from msm_jax import artifact, children, cli, perf, topology
from msm_jax.cli import UserError
from msm_jax.optim import path_of
from msm_jax.topology import Topology

Json = dict[str, Any]
LARGE = 1 << 24  # bytes; an array as large as this must not be whole on every device
# Keys, and groups of keys, that change no program.
IDLE = ("out", "seed", "init_words", "checkpoint", "log", "data.weights", "data.seed", "data.verify")


@dataclasses.dataclass(frozen=True)
class Request:
    """One compilation. `arguments`: --config=FILE and its --config.key=value."""

    arguments: tuple[str, ...]
    topology: str
    seq_len: int
    memory_only: bool = False
    executable: bool = False

    def settings(self) -> Json:
        """The configuration's keys that can matter."""
        flat = cli.flatten(cli.parse_config(["plan", *self.arguments]))
        return {key: value for key, value in flat.items() if not {key, key.partition(".")[0]} & set(IDLE)}

    def key(self) -> str:
        """Of all that the answer depends on."""
        asked = dataclasses.asdict(self) | {"arguments": self.settings()}
        options = perf.xla_options(topology.parse(self.topology).chip)
        return artifact.digest([asked, options, versions(), artifact.code_digest()])


def versions() -> dict[str, str]:
    def of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "none"

    return {package: of(package) for package in ("jax", "jaxlib", "libtpu")}


# ------------------------------------------------------------------------------------------------- in the parent


def run(request: Request, cache: Path) -> Json:
    """What `compiled` gives, from the cache or a new process; or {"error": {"kind", "message", …}}.

    Kinds: `memory` (does not fit: `needed`, `capacity` in bytes), `aborted`, `compile` (the compiler refuses).

    Raises:
      UserError: what the child finds wrong with the configuration, or no libtpu.
    """
    kept = cache / "plans" / f"{request.key()}.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    topology.require_libtpu()
    with tempfile.TemporaryDirectory(prefix="msm_jax_plan_") as scratch:
        result = _in_child(request, cache, Path(scratch))
    error = result.get("error", {})
    if error.get("kind") == "user":
        raise UserError(error["message"])
    kept.parent.mkdir(parents=True, exist_ok=True)
    if not error or error["kind"] == "memory":
        artifact.write_atomic(kept, json.dumps(result, indent=1))
    return result


def _in_child(request: Request, cache: Path, scratch: Path) -> Json:
    asked, answer = scratch / "request.json", scratch / "answer.json"
    asked.write_text(json.dumps(dataclasses.asdict(request) | {"cache": str(cache), "scratch": str(scratch)}))
    environment = dict(os.environ)
    topology.prepare(environment)
    said = scratch / "stderr"
    with said.open("w") as stderr:
        command = [sys.executable, "-m", "msm_jax.aot", str(asked), str(answer)]
        child = subprocess.Popen(
            command, env=environment, stdout=stderr, stderr=stderr, preexec_fn=children.die_with_parent
        )
        try:
            status = _waited(child, request.topology)
        finally:
            child.kill()
    if answer.is_file():
        return json.loads(answer.read_text())
    lines = said.read_text(errors="replace").strip().splitlines()
    if status >= 0:  # nobody foresaw it, so all of it is shown
        raise RuntimeError(f"compiling for {request.topology} failed:\n" + "\n".join(lines[-40:]))
    fatal = [line for line in lines if re.match(r"F\d{4} |.*Check failed", line)] or lines[-1:] or [""]
    message = f"the compiler aborted ({signal.Signals(-status).name}): {' '.join(fatal[0].split())[:300]}"
    return {"error": {"kind": "aborted", "message": message}}


def _waited(child: subprocess.Popen[bytes], what: str) -> int:
    """Its exit status; every half minute a line for who waits with us."""
    began = time.monotonic()
    while True:
        try:
            return child.wait(30)
        except subprocess.TimeoutExpired:
            cli.note(f"{what}: compiling for {time.monotonic() - began:.0f} s; a 32B model takes minutes")


# -------------------------------------------------------------------------------------------------- in the child


def main(argv: list[str]) -> None:
    """argv: request file, answer file."""
    asked, answer = Path(argv[1]), Path(argv[2])
    read = json.loads(asked.read_text())
    cache, scratch = Path(read.pop("cache")), Path(read.pop("scratch"))
    request = Request(tuple(read.pop("arguments")), **read)
    try:
        result = compiled(request, cache, scratch)
    except UserError as error:
        result = {"error": {"kind": "user", "message": str(error)}}
    artifact.write_atomic(answer, json.dumps(result, indent=1))


def compiled(request: Request, cache: Path, scratch: Path) -> Json:
    """Memory, and unless request.memory_only the schedule, of the train step.

    Raises:
      UserError: a configuration that cannot be, a topology that libtpu refuses.
    """
    where = topology.parse(request.topology)
    began = time.monotonic()
    with step_on(request, where) as (lowered, state, arguments, model, lora):
        text = lowered.as_text()
        options = options_of(where, request.memory_only)
        name = artifact.digest([text, options, where.kwargs() | {"wrap": list(where.wrap)}, versions()])
        kept = cache / "programs" / name[:32]
        result: Json = {
            "topology": {"name": where.name, "chips": where.chips, "devices": where.device_count} | where.kwargs(),
            "versions": versions() | {"code": artifact.code_digest()},
            "options": options,
            "program": kept.name,
            "seq_len": request.seq_len,
            "model": model.to_dict(),
            "lora": lora.to_dict() if lora else None,
            "classes": {name: device_bytes(tree) for name, tree in arguments.items()},
            "mesh": mesh_of(state),
            # The optimizer's moments lie as what they belong to, so they need not be named.
            "large_replicated": large_replicated({name: arguments[name] for name in ("weights", "frozen", "batch")}),
            "lower_seconds": round(time.monotonic() - began, 1),
        }
        try:
            result |= _compile(lowered, state, where, kept, scratch, request)
        except jax.errors.JaxRuntimeError as error:
            result["error"] = explained(str(error), sum(result["classes"].values()))
    return result


def options_of(where: Topology, memory_only: bool) -> perf.Options:
    """The chip's; for memory alone without the one that makes compiling slow (2 to 5 times) and memory no other: of an
    8B model's step on v5p:2x2x2, 22.73 GB without it and 22.75 GB with it."""
    options = perf.xla_options(where.chip)
    if memory_only:
        options.pop(perf.VMEM_OPTION, None)
    return options


@contextlib.contextmanager
def step_on(request: Request, where: Topology) -> Iterator[tuple[Any, Any, dict[str, Any], Any, Any]]:
    """(lowered step, its state, its arguments by class, model, adapter) with the topology's mesh in use.

    Classes: `weights` (that are trained), `frozen`, `optimizer`, `batch`; trees of ShapeDtypeStructs.
    """
    from msm_jax import data, train  # slow to import
    from msm_jax.mesh import make_mesh
    from msm_jax.step import make_program

    config = cli.parse_config(["plan", *request.arguments])
    if not config.optim.steps:  # a run over all rows finds out; here any number will do
        with config.unlocked():
            config.optim.steps = 1000
    train.validate(config)
    model, lora = shapes(config)
    mesh = make_mesh(**config.mesh.to_dict(), devices=topology.devices(where))
    train.check_divisible(config, model, mesh, request.seq_len)
    with jax.sharding.set_mesh(mesh):
        program = make_program(model, lora, config.optim, options_of(where, request.memory_only))
        batch = data.abstract_batch(config.data.batch_rows, config.optim.accumulate, request.seq_len)
        state = program.state
        lowered = program.step.lower(state, program.frozen, batch)
        classes = {"weights": state.trained, "frozen": program.frozen, "optimizer": state.opt, "batch": batch}
        yield lowered, state, classes, model, lora


def shapes(config: ConfigDict) -> tuple[Any, Any]:
    """(ModelConfig, LoraConfig or None) without reading weights: config.model's, else those of a local init_from."""
    from msm_jax.model.config import ModelConfig, with_dtypes
    from msm_jax.model.lora import lora_of

    given = with_dtypes(config.model.to_dict(), "bfloat16", frozen=bool(config.lora.rank))
    if not (given.get("V") and given.get("D")):
        given.pop("V", None)
        given |= _shape_of_start(config)
    return ModelConfig(**given), lora_of(config.lora.to_dict())


def _shape_of_start(config: ConfigDict) -> Json:
    from msm_jax.pretrained import open_pretrained
    from msm_jax.starts import padded_vocab

    if config.init_from and Path(config.init_from).is_dir():
        return open_pretrained(config.init_from).shape
    source = Path(config.data.sources[0]) if config.data.sources else Path("")
    if not config.init_from and (source / artifact.MANIFEST).is_file():
        return {"V": padded_vocab(artifact.read_manifest(source, "shards")["counts"]["vocab_size"])}
    raise UserError(
        "config.model: the shape is not known without the weights; set config.model.V (and D, L, H, …), or make "
        "config.init_from a local directory"
    )


def mesh_of(tree: Any) -> dict[str, int]:
    """The axes' sizes of the mesh that a tree is placed on."""
    return dict(jax.tree.leaves(tree)[0].sharding.mesh.shape)


def device_bytes(tree: Any) -> int:
    """What a tree of placed arrays takes on one device."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def large_replicated(tree: Any, limit: int = LARGE) -> list[str]:
    """Paths of arrays of more than `limit` bytes that are whole on every one of several devices."""
    return [
        path_of(path)
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
        if x.size * x.dtype.itemsize > limit and x.sharding.is_fully_replicated and len(x.sharding.device_set) > 1
    ]


def misplaced(got: Any, wanted: Any) -> list[str]:
    """Paths where a tree of shardings differs from a tree of arrays: the new state's from the old one's, say."""
    pairs = zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(wanted), strict=True)
    return [path_of(path) for (path, sharding), x in pairs if not sharding.is_equivalent_to(x.sharding, len(x.shape))]


def _compile(lowered: Any, state: Any, where: Topology, kept: Path, scratch: Path, request: Request) -> Json:
    """Compiles, or reads what was compiled; memory, schedule and where the new state lies."""
    from msm_jax import schedule

    if not (kept / "memory.json").is_file() or (request.executable and not (kept / "executable.pickle").is_file()):
        dump = scratch / "dump"
        began, cpu = time.monotonic(), time.process_time()
        found = _executable(lowered, where, dump, request.memory_only)
        took = {
            "compile_seconds": round(time.monotonic() - began, 1),
            "compile_cpu_seconds": round(time.process_time() - cpu, 1),
        }
        text = max(dump.glob("*.after_codegen.txt"), key=lambda file: file.stat().st_size).read_text()
        new_state, _ = found.output_shardings
        analysis = found.memory_analysis()
        memory: Json = {
            name: value
            for name in dir(analysis)
            if not name.startswith("_") and isinstance(value := getattr(analysis, name), int)
        }
        memory |= took | {"moved_state": misplaced(new_state, state)}
        kept.mkdir(parents=True, exist_ok=True)
        _write_bytes(kept / "program.hlo.gz", gzip.compress(text.encode(), 5, mtime=0))
        if request.executable:
            from jax.experimental import serialize_executable

            _write_bytes(kept / "executable.pickle", pickle.dumps(serialize_executable.serialize(found)))
        artifact.write_atomic(kept / "memory.json", json.dumps(memory, indent=1))
    memory = json.loads((kept / "memory.json").read_text())
    result = {"memory": memory}
    if not request.memory_only:
        text = gzip.decompress((kept / "program.hlo.gz").read_bytes()).decode()
        result["schedule"] = schedule.report(text, where.chip, where.wrap, where.slices)
    return result


def _executable(lowered: Any, where: Topology, dump: Path, memory_only: bool) -> Any:
    options: dict[str, Any] = {"xla_dump_to": str(dump), "xla_dump_hlo_as_text": True}
    try:
        return lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        whole = perf.xla_options(where.chip)
        if not (memory_only and perf.VMEM_OPTION in whole and "vmem" in str(error).lower()):
            raise
        # A kernel's blocks need the memory that was left out to compile faster.
        return lowered.compile(compiler_options=options | {perf.VMEM_OPTION: whole[perf.VMEM_OPTION]})


def _write_bytes(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    temporary.rename(path)


_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)([KMGT]?)i?B?"
_ALL = re.compile(rf"memory space hbm\. Used {_SIZE} of {_SIZE} hbm")
_TEMPORARIES = re.compile(rf"required for HLO temporaries \({_SIZE}\) exceeds available HBM \({_SIZE}\)")


def explained(message: str, arguments: int) -> Json:
    """A compiler's refusal as {"kind": "memory", "needed", "capacity", …} or {"kind": "compile", "message"}.

    Args:
      message: JAX's.
      arguments: bytes of the step's arguments on a device, which one of the messages leaves out.
    """
    line = " ".join(message.split())[:400]
    whole, part = _ALL.search(message), _TEMPORARIES.search(message)
    used = whole or part
    if used is None:
        return {"kind": "compile", "message": line}
    needed, capacity = (float(used[n]) * _UNITS[used[n + 1]] for n in (1, 3))
    return {"kind": "memory", "needed": needed + (0 if whole else arguments), "capacity": capacity, "message": line}


if __name__ == "__main__":
    main(sys.argv)

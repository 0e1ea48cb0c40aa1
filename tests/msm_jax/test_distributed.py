"""Two and four processes on this machine are one run: the same as one process with as many devices."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import common
from msm_jax import artifact, checkpoint, distributed, export, metrics, timings
from msm_jax.cli import UserError
from msm_jax.pretrained import open_model
from msm_jax.saving import STATUS_PREEMPTED
from tests.conftest import ROOT, make_shards, tiny_settings, train_tiny
from tests.invariants.support import KilledError, stop_at

DEVICES = 8  # of all processes together


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def commands(n, each, devices=DEVICES, project=None):
    """Runs `each(i, settings)`, a list of arguments to python, for every process i; none of them outlives the block.
    `project`: {process: where its code is}."""
    port, started = free_port(), []
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices // n}"}
    for i in range(n):
        where = [f"coordinator=127.0.0.1:{port}", f"processes={n}", f"process={i}", "timeout=60"]
        command = [sys.executable, *each(i, [f"--config.distributed.{setting}" for setting in where] if n > 1 else [])]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        place = (project or {}).get(i, ROOT)
        started.append(subprocess.Popen(command, cwd=place, env=environment | {"PYTHONPATH": str(place)}, **pipes))
    try:
        yield started
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
            process.communicate()


def train_command(out, sources, *more):
    """Arguments to python."""
    where = [f"--config.out={out}", f"--config.data.sources={tuple(map(str, sources))}"]
    return ["-m", "msm_jax.train", "--config=configs/common.py", *where, *tiny_settings(), *more]


def processes(n, out, sources, *more, alone=None, **how):
    """The real command n times; `alone`: {process: its own settings}."""
    return commands(n, lambda i, where: train_command(out, sources, *more, *where, *(alone or {}).get(i, [])), **how)


def run(n, out, sources, *more, **how):
    """(exit status, what it said on stderr) of each."""
    with processes(n, out, sources, *more, **how) as started:
        said = [process.communicate(timeout=240)[1] for process in started]
        return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


def losses(directory):
    rows = metrics.read(directory)
    assert [row["step"] for row in rows] == list(range(len(rows))), "a step is missing or doubled"
    return np.array([row["loss"] for row in rows])


def wait_for(condition, *started, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "nothing happened"
        assert all(process.poll() is None for process in started), [p.communicate()[1] for p in started]
        time.sleep(0.05)


def test_two_processes_are_one_run(toy, tiny_run, tmp_path):
    """The same losses but for the order of sums between processes, and a digest that knows nothing of processes."""
    ends = run(2, tmp_path / "run", [toy.shards("base")])
    assert [status for status, _ in ends] == [0, 0], ends
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(tiny_run), rtol=1e-6)
    weights = [[row["loss_weight"] for row in metrics.read(d)] for d in (tmp_path / "run", tiny_run)]
    np.testing.assert_allclose(*weights, rtol=1e-6, err_msg="other rows")
    assert "23,712 parameters, 12 updates of 512 tokens" in ends[0][1]
    assert not [line for line in ends[1][1].splitlines() if "Gloo" not in line], "the second process speaks"
    model = open_model(str(tmp_path / "run"))
    with jax.sharding.set_mesh(model.mesh):
        model.arrays()  # one process finds the digest that two have written


LOAD = """
import sys, jax
from msm_jax import checkpoint, cli, distributed, pretrained
config = cli.parse_config(sys.argv[:1] + sys.argv[2:])
with distributed.joined(config.distributed):
    model = pretrained.open_model(sys.argv[1])
    with jax.sharding.set_mesh(model.mesh):
        print("digest", checkpoint.params_digest(model.arrays()[0]))
"""


def test_a_hugging_face_directory_is_read_by_two_processes(tiny_run, tmp_path):
    export.main(["", "--config=configs/export.py", f"--config.model={tiny_run}", f"--config.out={tmp_path / 'hf'}"])
    with commands(2, lambda _, where: ["-c", LOAD, tmp_path / "hf", "--config=configs/common.py", *where]) as started:
        said = [process.communicate(timeout=240) for process in started]
    digest = artifact.read_manifest(tiny_run)["files"]["params"]["sha256"]
    assert all(f"digest {digest}" in out for out, _ in said), said


@pytest.mark.faults
def test_eight_devices_four_eight_and_one_process_two_one_are_one_run(toy, tmp_path, monkeypatch):
    """Killed on 8 devices, told to stop on 4, told to stop as two processes of 4, ended by one of 8."""
    sources, out = [toy.shards("msm-affordability"), toy.shards("base")], tmp_path / "run"
    more = ["--config.data.weights=(0.5, 0.5)", "--config.optim.steps=60", "--config.log.every_steps=1"]
    train_tiny(tmp_path / "whole", sources, *more)
    with monkeypatch.context() as context:
        stop_at(context, 8)
        with pytest.raises(KilledError):
            train_tiny(out, sources, *more, "--config.checkpoint.every_steps=5")
    steps = [checkpoint.latest_step(out)]
    for n, devices in ((1, 4), (2, 8)):
        with processes(n, out, sources, *more, devices=devices) as started:
            wait_for(lambda: len((out / metrics.FILE).read_text().splitlines()) > steps[-1] + 2, *started)
            started[-1].send_signal(signal.SIGTERM)  # what a cloud sends ahead of taking a machine
            said = [process.communicate(timeout=120)[1] for process in started]
        assert [process.returncode for process in started] == [STATUS_PREEMPTED] * n, said
        assert f"from step {steps[-1]}" in said[0]
        steps.append(checkpoint.latest_step(out))
        assert f"saved after {steps[-1]} of 60 updates" in said[0]
    assert 5 == steps[0] < steps[1] < steps[2] < 60, "too early or too late for the test to mean anything"
    train_tiny(out, sources, *more)
    rows, whole = metrics.read(out), metrics.read(tmp_path / "whole")
    assert [row["batch"] for row in rows] == [row["batch"] for row in whole], "other rows, or in another order"
    np.testing.assert_allclose(losses(out), losses(tmp_path / "whole"), rtol=0, atol=1e-5)
    found = timings.read(out)
    starts = [(row["step"], row["processes"], row["devices"]) for row in found if row["event"] == "start"]
    assert starts == [(0, 1, 8), (5, 1, 4), (steps[1], 2, 8), (steps[2], 1, 8)]
    assert 0 < found[-1]["goodput"] < 1


@pytest.mark.parametrize(
    ("alone", "line"),
    [
        ("--config.optim.lr=0.5", "error: process 1: config.optim.lr is 0.5 here, 0.001 on process 0; start all"),
        ("--config.data.sources=('nowhere',)", "error: process 1: nowhere: no such directory"),
    ],
    ids=["config", "data"],
)
def test_an_error_of_one_ends_all_with_one_line(toy, tmp_path, alone, line):
    began = time.monotonic()
    ends = run(2, tmp_path / "run", [toy.shards("base")], alone={1: [alone]})
    assert time.monotonic() - began < 60
    check_one_line(ends, line)
    assert not (tmp_path / "run").exists()


def check_one_line(ends, line):
    assert [status for status, _ in ends] == [2, 2], ends
    for _, said in ends:
        (only,) = [text for text in said.splitlines() if "Gloo" not in text]
        assert only.startswith(line), only


def test_other_rows_other_code_or_another_step_are_refused(toy, tmp_path, monkeypatch):
    """On a host that has an older checkpoint, older code and another copy of the shards: all three are named."""
    base, out = toy.shards("base"), tmp_path / "run"
    with monkeypatch.context() as context:
        stop_at(context, 8)
        with pytest.raises(KilledError):
            train_tiny(out, [base], "--config.checkpoint.every_steps=5")
    make_shards(toy.world / "base.jsonl", toy.tokenizer, tmp_path / "base", "--config.packing=none")
    for package in ("msm_jax", "data_gen", "evals", "configs"):
        shutil.copytree(ROOT / package, tmp_path / "project" / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "project" / "msm_jax" / "loss.py").open("a") as file:
        file.write("# another version\n")
    hosts = [(out, base), (tmp_path / "other", tmp_path / "base")]

    def each(i, where):
        return train_command(hosts[i][0], [hosts[i][1]], *where)

    with commands(2, each, project={1: tmp_path / "project"}) as started:
        said = [process.communicate(timeout=240)[1] for process in started]
    ends = [(process.returncode, text) for process, text in zip(started, said, strict=True)]
    check_one_line(ends, "error: process 1: the hash of the code is ")
    for named in (
        "the id of source0 is ",
        "the run is 'at step 0' here, 'at step 5' on process 0",
        "start all processes",
    ):
        assert named in ends[0][1], ends[0][1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"processes": 2}, "go together"),
        ({"coordinator": "localhost:1", "processes": 2, "process": 2}, "must be 0 to processes - 1"),
        ({"coordinator": "localhost", "processes": 2, "process": 0}, "must be host:port"),
        ({"timeout": 0}, "at least 1 second"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(UserError, match=message):
        distributed.connect(ConfigDict(common.get_config().distributed.to_dict() | settings))


def test_a_directory_that_is_not_shared(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "SHARED_SECONDS", 0.0)
    with pytest.raises(UserError, match="one directory that all hosts share"):
        distributed.check_shared(tmp_path / "run.json", timeout=1)

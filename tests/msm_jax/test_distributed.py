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
from tests.conftest import ROOT, tiny_settings, train_tiny

DEVICES = 8  # of all processes together


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def commands(n, each):
    """Runs `each(i, settings)`, a list of arguments to python, for every process i; none of them outlives the block."""
    port, started = free_port(), []
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES // n}"}
    for i in range(n):
        where = [f"coordinator=127.0.0.1:{port}", f"processes={n}", f"process={i}", "timeout=60"]
        command = [sys.executable, *each(i, [f"--config.distributed.{setting}" for setting in where])]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment, **pipes))
    try:
        yield started
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
            process.communicate()


def processes(n, out, sources, *more, alone=None):
    """The real command n times; `alone`: {process: its own settings}."""
    command = ["-m", "msm_jax.train", "--config=configs/common.py", f"--config.out={out}",
               f"--config.data.sources={tuple(map(str, sources))}", *tiny_settings(), *more]  # fmt: skip
    return commands(n, lambda i, where: [*command, *where, *(alone or {}).get(i, [])])


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


def test_preempted_and_killed_goes_on_with_more_processes_and_with_fewer(toy, tmp_path):
    sources, out = [toy.shards("msm-affordability"), toy.shards("base")], tmp_path / "run"
    more = ["--config.data.weights=(0.5, 0.5)", "--config.optim.steps=40", "--config.log.every_steps=1"]
    train_tiny(tmp_path / "whole", sources, *more)
    log = out / metrics.FILE
    with processes(2, out, sources, *more) as started:
        wait_for(lambda: log.exists() and log.read_text().count("\n") > 2, *started)
        started[1].send_signal(signal.SIGTERM)  # what a cloud sends ahead of taking a machine: all save, at one step
        wait_for(lambda: checkpoint.latest_step(out) > 0, *started)
        for process in started:
            process.kill()
    step = checkpoint.latest_step(out)
    assert step < 40, "too late for the test to mean anything"
    assert not (out / artifact.MANIFEST).exists()
    shutil.copytree(out, tmp_path / "alone")
    ends = run(4, out, sources, *more)
    assert [status for status, _ in ends] == [0] * 4, ends
    assert f"from step {step}" in ends[0][1]
    train_tiny(tmp_path / "alone", sources, *more)
    for resumed, processes_then in ((out, 4), (tmp_path / "alone", 1)):
        np.testing.assert_allclose(losses(resumed), losses(tmp_path / "whole"), rtol=1e-5)
        rows = timings.read(resumed)
        starts = [(row["step"], row["processes"], row["devices"]) for row in rows if row["event"] == "start"]
        assert starts == [(0, 2, DEVICES), (step, processes_then, DEVICES)]
        assert 0 < rows[-1]["goodput"] < 1


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
    assert [status for status, _ in ends] == [2, 2], ends
    for _, said in ends:
        (only,) = [text for text in said.splitlines() if "Gloo" not in text]
        assert only.startswith(line)
    assert not (tmp_path / "run").exists()


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

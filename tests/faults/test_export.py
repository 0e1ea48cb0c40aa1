"""Killed while it writes, an export is absent, and the same command makes it."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from msm_jax import artifact
from tests.toy import ROOT


def start(run, out):
    settings = [f"--config.model={run}", f"--config.out={out}", "--config.shard_gb=0.000008"]  # 8 kB: many files
    command = [sys.executable, "-m", "msm_jax.export", "--config=configs/export.py", *settings]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.faults) for n in (1, 2, 3))])
def test_killed_while_it_writes(tiny_run, tmp_path, seed):
    out, work = tmp_path / "out", tmp_path / ".out.tmp"
    process = start(tiny_run, out)
    wanted = random.Random(seed).randint(0, 6)  # files that are there already
    while process.poll() is None and (not work.is_dir() or len(os.listdir(work)) < wanted):
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "too late for the test to mean anything"
    assert not out.exists(), "half an export where a whole one is expected"
    process = start(tiny_run, out)
    said = process.communicate()[1].decode()
    assert process.returncode == 0, said
    manifest = artifact.read_manifest(out, "hf")
    assert len(manifest["files"]) > 6
    assert sorted(manifest["files"]) == sorted(p.name for p in out.iterdir() if p.name != artifact.MANIFEST)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) <= set(manifest["files"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"], "something is left behind"

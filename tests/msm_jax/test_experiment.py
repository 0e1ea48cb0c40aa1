"""The runner: a graph of stages, skipped where done, refused where foreign, finished after a kill."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from msm_jax import artifact, experiment
from msm_jax.cli import UserError
from msm_jax.experiment import Stage
from tests.conftest import ROOT

CONFIG = '''
"""An experiment of three worlds, small enough for a test."""
from ml_collections import ConfigDict
from msm_jax.experiment import Stage

def get_config():
    return ConfigDict({"out": "", "workers": 2, "seeds": (0, 1, 2), "base": 4000, "specs": "ok"})

def get_stages(config):
    stages = []
    for seed in config.seeds:
        args = ("--config=configs/toy/world.py", f"--config.seed={seed}", f"--config.documents.base={config.base}")
        if config.specs != "ok" and seed == 1:
            args += ("--config.specs=('nowhere.md',)",)
        stages.append(Stage(f"seed{seed}/world", "data_gen.toy.write", args, labels={"seed": seed}))
        documents = f"{config.out}/seed{seed}/world/base.jsonl"
        stages.append(Stage(f"seed{seed}/tokenizer", "data_gen.tokenizer",
            ("--config=configs/toy/tokenizer.py", f"--config.documents=('{documents}',)"), (f"seed{seed}/world",)))
    return stages
'''


@pytest.fixture
def command(tmp_path):
    """The real command on the small experiment; returns a list for subprocess."""
    (tmp_path / "small.py").write_text(CONFIG)
    return [
        sys.executable,
        "-m",
        "msm_jax.experiment",
        f"--config={tmp_path / 'small.py'}",
        f"--config.out={tmp_path / 'out'}",
    ]


def ids(root):
    """Finished artefacts (not those still in their hidden directories) and their ids."""
    found = sorted(p for p in root.rglob(artifact.MANIFEST) if not any(part.startswith(".") for part in p.parts))
    return {str(p.parent.relative_to(root)): json.loads(p.read_text())["id"] for p in found}


def test_killed_and_started_again_gives_the_same(command, tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not ids(out):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)  # the parent alone: its workers must follow by themselves
    process.wait()
    survivors = ids(out)
    assert 0 < len(survivors) < 6, "killed too late for the test to mean anything"
    time.sleep(0.5)
    assert ids(out) == survivors, "a worker outlived its parent"
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert "all 6 stages are done" in done.stderr
    killed = ids(out)
    assert survivors.items() <= killed.items()
    assert not list(out.rglob(".*.tmp")), "leftovers of the kill"

    fresh = [*command[:-1], f"--config.out={tmp_path / 'fresh'}"]
    subprocess.run(fresh, cwd=ROOT, check=True, capture_output=True)
    assert ids(tmp_path / "fresh") == killed

    times = {p: p.stat().st_mtime_ns for p in out.rglob(artifact.MANIFEST)}
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert {p: p.stat().st_mtime_ns for p in out.rglob(artifact.MANIFEST)} == times


def test_a_failing_stage_ends_in_one_line(command, tmp_path):
    done = subprocess.run([*command, "--config.specs=bad"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: seed1/world: nowhere.md: no such spec"
    assert "seed1/tokenizer" not in ids(tmp_path / "out")


def test_another_recipe_in_the_same_directory_is_refused(command):
    subprocess.run([*command, "--config.seeds=(0,)"], cwd=ROOT, check=True, capture_output=True)
    done = subprocess.run(
        [*command, "--config.seeds=(0,)", "--config.base=50"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "made by another recipe (different config: documents)" in done.stderr


def test_the_toy_experiment_is_a_graph():
    _, stages = experiment.load_stages(["", "--config=configs/experiments/toy_cheese.py", "--config.seeds=(7,)"])
    names = [stage.name for stage in stages]
    assert len(set(names)) == len(names)
    fine_tuned = [s for s in stages if s.name.endswith("+aft") and s.module == "msm_jax.train"]
    assert len(fine_tuned) == 9
    assert len({next(a for a in s.args if "data.sources" in a) for s in fine_tuned}) == 1, "every arm: the same bytes"
    rank = experiment.urgency(stages)
    assert rank["seed7/world"] > rank["seed7/base"] > rank["seed7/msm-america"] > rank["report"]


@pytest.mark.parametrize(
    "stages",
    ['[Stage("a", "m", ()), Stage("a", "m", ())]', '[Stage("a", "m", (), ("b",)), Stage("b", "m", ())]'],
    ids=["twice", "cycle"],
)
def test_a_graph_that_is_none_is_refused(tmp_path, stages):
    (tmp_path / "bad.py").write_text(
        "from ml_collections import ConfigDict\nfrom msm_jax.experiment import Stage\n"
        f"get_config = lambda: ConfigDict({{}})\nget_stages = lambda config: {stages}\n"
    )
    with pytest.raises(UserError, match="listed twice or before its needs"):
        experiment.load_stages(["", f"--config={tmp_path / 'bad.py'}"])


def test_a_run_config_is_not_an_experiment():
    with pytest.raises(UserError, match="needs get_stages"):
        experiment.load_stages(["", "--config=configs/toy/base.py"])


def test_commands_can_be_pasted(tmp_path):
    stage = Stage("a/b", "data_gen.tokenizer", ("--config=c.py", "--config.documents=('x y',)"))
    assert (
        stage.command(tmp_path)
        == f"""python -m data_gen.tokenizer --config=c.py "--config.documents=('x y',)" --config.out={tmp_path}/a/b"""
    )

"""Killed and resumed is never killed; two runs of one config are bit-equal; another mesh gives the same losses."""

import json

import numpy as np
import pytest

from msm_jax import artifact, metrics
from tests.conftest import train_tiny

from .support import KilledError, stop_at


def digest(run):
    return artifact.read_manifest(run, "run")["files"]["params"]["sha256"]


def losses(run):
    rows = metrics.read(run)
    assert [row["step"] for row in rows] == list(range(len(rows))), "a step is missing or doubled"
    return np.array([row["loss"] for row in rows])


def test_two_runs_are_bit_equal(toy, tiny_run, tmp_path):
    train_tiny(tmp_path / "again", [toy.shards("base")])
    assert digest(tmp_path / "again") == digest(tiny_run)
    np.testing.assert_array_equal(losses(tmp_path / "again"), losses(tiny_run))


def test_another_seed_is_another_run(toy, tiny_run, tmp_path):
    train_tiny(tmp_path / "other", [toy.shards("base")], "--config.seed=1")
    assert digest(tmp_path / "other") != digest(tiny_run)


@pytest.mark.parametrize("mesh", ["same", "other"])
def test_killed_and_resumed_is_never_killed(toy, tiny_run, tmp_path, monkeypatch, capsys, mesh):
    run, every = tmp_path / "run", "--config.checkpoint.every_steps=5"
    with monkeypatch.context() as context:
        stop_at(context, 8)
        with pytest.raises(KilledError):
            train_tiny(run, [toy.shards("base")], every)
    assert not (run / artifact.MANIFEST).exists()
    other = ["--config.mesh.fsdp=2", "--config.mesh.tensor=2", "--config.mesh.replica=2"]
    capsys.readouterr()
    train_tiny(run, [toy.shards("base")], every, *(other if mesh == "other" else []))
    assert "from step 5" in capsys.readouterr().err, "it must resume, not begin again"
    if mesh == "same":
        assert digest(run) == digest(tiny_run)
        np.testing.assert_array_equal(losses(run), losses(tiny_run))
    else:
        np.testing.assert_allclose(losses(run), losses(tiny_run), rtol=0, atol=1e-5)


def test_finished_run_is_skipped_and_a_foreign_one_refused(toy, tiny_run, capsys):
    before = (tiny_run / metrics.FILE).stat().st_mtime_ns
    train_tiny(tiny_run, [toy.shards("base")])
    assert (tiny_run / metrics.FILE).stat().st_mtime_ns == before
    with pytest.raises(Exception, match="optim"):
        train_tiny(tiny_run, [toy.shards("base")], "--config.optim.lr=0.5")


def test_unfinished_run_of_another_config_is_refused(toy, tmp_path, monkeypatch):
    with monkeypatch.context() as context:
        stop_at(context, 2)
        with pytest.raises(KilledError):
            train_tiny(tmp_path / "run", [toy.shards("base")])
    with pytest.raises(Exception, match=r"unfinished run of another recipe \(config\.seed = 0 there, 5 here\)"):
        train_tiny(tmp_path / "run", [toy.shards("base")], "--config.seed=5")
    recipe = json.loads((tmp_path / "run" / "run.json").read_text())
    assert recipe["config"]["seed"] == 0

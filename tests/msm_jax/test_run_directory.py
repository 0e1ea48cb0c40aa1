"""A run is resumed with what it was started with; what else it may be resumed with is said, listed and small."""

import json

import pytest

from msm_jax import artifact, metrics, run_directory
from msm_jax.cli import UserError
from msm_jax.guards import FILE as ANOMALIES
from tests.conftest import train_tiny
from tests.invariants.support import KilledError, stop_at

EVERY = "--config.checkpoint.every_steps=5"
TWO = "--config.data.weights=(0.5, 0.5)"


@pytest.fixture
def killed(toy, tmp_path, monkeypatch):
    """A run of two sources whose newest checkpoint is of step 5, and how to go on in it."""
    sources = [toy.shards("base"), toy.shards("aft")]

    def go_on(*more):
        train_tiny(tmp_path / "run", sources, EVERY, TWO, *more)
        return artifact.read_manifest(tmp_path / "run")

    with monkeypatch.context() as context:
        stop_at(context, 8)
        with pytest.raises(KilledError):
            go_on()
    return go_on


def test_what_a_run_says_of_itself(killed, tmp_path):
    state = json.loads((tmp_path / "run" / run_directory.STATE).read_text())
    assert state["config"]["optim"]["lr"] == 1e-3
    assert state["settings"]["checkpoint"]["every_steps"] == 5
    assert {"jax", "orbax-checkpoint", "code"} <= state["versions"].keys()
    assert [entry["kind"] for entry in state["inputs"].values()] == ["shards", "shards"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optim.lr=0.5", r"\(config\.optim\.lr = 0\.001 there, 0\.5 here\).*--config\.accept=\"\('optim\.lr',\)\""),
        ("data.seed=4", r"\(config\.data\.seed = 0 there, 4 here\); choose another config\.out, or the same settings$"),
        ("data.stages=((3, (0.1, 0.9)),)", r"data\.stages.*can be added at the end, from step 5 on$"),
        ("model.F=64", r"\(config\.model\.F = 48 there, 64 here\)"),
    ],
)
def test_other_settings_are_named_and_refused(killed, tmp_path, setting, message):
    before = (tmp_path / "run" / run_directory.STATE).read_text()
    with pytest.raises(UserError, match=message):
        killed(f"--config.{setting}")
    assert (tmp_path / "run" / run_directory.STATE).read_text() == before
    with pytest.raises(UserError, match=r"config\.data\.seed"):  # what shaped the past cannot be accepted either
        killed("--config.data.seed=4", "--config.accept=('data.seed',)")


def test_a_change_that_was_told_is_listed_and_is_another_recipe(killed, tmp_path):
    changed = "--config.optim.lr=0.0001", "--config.accept=('optim.lr',)"
    manifest = killed(*changed)
    assert manifest["config"]["changes"] == [[5, {"optim.lr": 0.001}]]
    assert manifest["config"]["optim"]["lr"] == 1e-4
    killed(*changed)  # finished: skipped
    with pytest.raises(UserError, match="another recipe"):
        killed()


def test_a_stage_added_later_is_the_run_that_had_it_from_the_start(killed, toy, tmp_path):
    stages = "--config.data.stages=((7, (0.1, 0.9)),)"
    train_tiny(tmp_path / "whole", [toy.shards("base"), toy.shards("aft")], TWO, stages)
    manifest = killed(stages)
    assert manifest["id"] == artifact.read_manifest(tmp_path / "whole")["id"], "the same weights by the same recipe"
    assert metrics.read(tmp_path / "run") == metrics.read(tmp_path / "whole")
    train_tiny(tmp_path / "plain", [toy.shards("base"), toy.shards("aft")], TWO)
    batches = [[row["batch"] for row in metrics.read(tmp_path / run)] for run in ("plain", "whole")]
    assert batches[0][:7] == batches[1][:7]
    assert not set(batches[0][7:]) & set(batches[1][7:])


def test_an_epoch_of_a_mixture_that_changes_is_not_known(toy, tmp_path):
    with pytest.raises(UserError, match="a run's length must be said in updates"):
        train_tiny(
            tmp_path / "run", [toy.shards("base")], "--config.data.stages=((7, (2.0,)),)", "--config.optim.steps=0"
        )
    assert not (tmp_path / "run").exists()


def test_what_a_killed_run_wrote_too_much_is_gone(killed, toy, tmp_path):
    run = tmp_path / "run"
    with (run / metrics.FILE).open("a") as file:
        file.write('{"step": 7, "loss": 1')  # half a row
    with (run / ANOMALIES).open("a") as file:
        file.write('{"step": 7, "kind": "spike"}\n')
    killed()
    train_tiny(tmp_path / "whole", [toy.shards("base"), toy.shards("aft")], TWO)
    for name in (metrics.FILE, ANOMALIES):
        assert (run / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_a_damaged_or_foreign_directory(killed, tmp_path, toy):
    (tmp_path / "run" / run_directory.STATE).write_text('{"config": 3')
    with pytest.raises(UserError, match=r"run\.json: damaged"):
        killed()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("…")
    with pytest.raises(UserError, match="not empty and not a run"):
        train_tiny(tmp_path / "other", [toy.shards("base")])

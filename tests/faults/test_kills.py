"""Killed at random moments, over and over, a run ends as if nobody had touched it."""

import json

import pytest

from tests.faults import kills
from tests.faults.command import Workshop


def play(toy, root, kinds, **how):
    report = kills.play_all(Workshop(toy, root, how.pop("steps", 40)), kinds, **how)
    assert not report["failures"], json.dumps(report["failures"], indent=1)
    assert report["kills"] == how["kills"]
    return report


def test_killed_four_times(toy, tmp_path):
    report = play(toy, tmp_path, ["single"], kills=4, seed=0, jobs=2, steps=20)
    assert len(report["by_kind_and_phase"]["single"]) >= 2, "too few of a run's phases were hit"


@pytest.mark.faults
@pytest.mark.parametrize("terminate", [0.0, 0.2], ids=["SIGKILL", "SIGTERM too"])
def test_killed_a_hundred_times(toy, tmp_path, terminate):
    report = play(toy, tmp_path, ["single", "pair"], kills=100, seed=1, jobs=2, terminate=terminate)
    for kind in ("single", "pair"):
        assert report["by_kind_and_phase"][kind].keys() == set(kills.PHASES), "a run's phase was never hit"


@pytest.mark.faults
def test_two_runs_left_alone_that_differ_are_noticed(toy, tmp_path):
    """The harness sees what it is there to see: a row, a weight, a checkpoint, a temporary."""
    shop = Workshop(toy, tmp_path, 6)
    found = kills.Reference.of(kills.left_alone(shop, "single", "first", "--config.checkpoint.keep=1000")[0])
    run = kills.left_alone(shop, "single", "second")[0]
    assert not list(kills.checks.finished(run, found))
    log = run / "metrics.jsonl"
    rows = log.read_text().splitlines(keepends=True)

    def complaint(text):
        (what,) = kills.checks.finished(run, found)
        assert text in what
        log.write_text("".join(rows))

    log.write_text("".join(rows[:2] + rows[3:]))
    complaint("metrics of the steps")
    log.write_text("".join([*rows, rows[-1]]))
    complaint("metrics of the steps")
    log.write_text("".join(rows).replace('"loss": ', '"loss": 1'))
    complaint("metrics differ")
    (run / "checkpoints" / "6.orbax-checkpoint-tmp").mkdir()
    with pytest.raises(ValueError, match="too many values"):  # both the directory and the list of checkpoints
        complaint("left behind")
    (run / "checkpoints" / "6.orbax-checkpoint-tmp").rmdir()
    (run / "checkpoints" / "3").rename(run / "checkpoints" / "5")
    (run / "checkpoints" / "6").rename(run / "checkpoints" / "3")
    (run / "checkpoints" / "5").rename(run / "checkpoints" / "6")
    assert [what for what in kills.checks.finished(run, found) if "is not the reference's" in what]
    log.write_text("".join(rows[:2]))
    assert ["after the kill" in what for what in kills.checks.unfinished(run, found)] == [True]

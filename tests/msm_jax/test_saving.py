"""When a run saves, and that a SIGTERM saves, ends with a status of its own and loses nothing."""

import os
import signal

import pytest

from msm_jax import artifact, checkpoint, metrics, saving, timings
from msm_jax.saving import STATUS_PREEMPTED, Saving
from tests.conftest import train_tiny


def steps_saved(policy, total, busy=()):
    saved = []
    for step in range(1, total + 1):
        if policy.due(step, step in busy):
            policy.saved()
            saved.append(step)
    return saved


def test_by_steps():
    assert steps_saved(Saving(4, 0.0, 1), 13) == [4, 8, 12]
    assert steps_saved(Saving(0, 0.0, 1), 13) == []


def test_a_save_that_is_due_waits_for_the_one_on_its_way():
    assert steps_saved(Saving(4, 0.0, 1), 13, busy={4, 5, 8}) == [6, 9, 12]
    assert steps_saved(Saving(4, 0.0, 1), 13, busy=range(4, 11)) == [11, 12], "the two that were due are one"


def test_by_the_clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(saving.time, "monotonic", lambda: now[0])
    policy, saved = Saving(0, 1.0, 5), []
    for step in range(1, 41):
        now[0] += 10.0
        if policy.due(step, busy=False):
            policy.saved()
            saved.append(step)
    assert saved == [10, 20, 30, 40], "more than a minute after the last, at the next step where the clock is looked at"


@pytest.mark.parametrize("at", [0, 6])
def test_sigterm_saves_at_once_and_the_same_command_goes_on(toy, tiny_run, tmp_path, monkeypatch, capsys, at):
    write = metrics.Writer.write

    def told(self, step, *values):
        write(self, step, *values)
        if step == at:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as context:
        context.setattr(metrics.Writer, "write", told)
        with pytest.raises(SystemExit) as ended:
            train_tiny(tmp_path / "run", [toy.shards("base")])
    assert ended.value.code == STATUS_PREEMPTED == 143
    assert signal.getsignal(signal.SIGTERM) == before
    assert f"told to stop, saved after {at + 1} of 12 updates" in capsys.readouterr().err
    assert checkpoint.latest_step(tmp_path / "run") == at + 1
    assert not (tmp_path / "run" / artifact.MANIFEST).exists()
    train_tiny(tmp_path / "run", [toy.shards("base")])
    digests = [artifact.read_manifest(run)["files"]["params"]["sha256"] for run in (tmp_path / "run", tiny_run)]
    assert digests[0] == digests[1]
    assert metrics.read(tmp_path / "run") == metrics.read(tiny_run)
    assert [row["event"] for row in timings.read(tmp_path / "run")].count("preempted") == 1

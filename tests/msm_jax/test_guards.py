"""What is not finite changes nothing and is told; a spike names its documents; what hangs leaves its stacks."""

import json
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msm_jax import artifact, guards, metrics
from msm_jax.cli import UserError
from msm_jax.guards import Anomalies
from msm_jax.loss import Rows
from msm_jax.mixture import Mixture
from msm_jax.shards import open_shards
from msm_jax.step import State, make_program
from tests.conftest import ROOT, train_tiny
from tests.invariants.support import TINY, on_mesh, params_on_mesh, random_batch


def optim(**changes):
    from configs import common

    config = common.get_config().optim
    config.update({"steps": 10, "warmup_steps": 1} | changes)
    return config


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_that_is_not_finite_changes_nothing(one_device, accumulate):
    program = make_program(TINY, None, optim(accumulate=accumulate))
    batch = random_batch(0, TINY)
    poisoned = {k: v.copy() for k, v in batch.items()}
    poisoned["loss_weights"][5][poisoned["loss_weights"][5] > 0] = np.inf

    def after(*batches):
        params = params_on_mesh(TINY)
        state = State(params, program.optimizer.init(params))
        for one in batches:
            state, measured = program.step(jax.tree.map(jnp.copy, state), {}, on_mesh(one, accumulate))
        return jax.tree.map(np.asarray, (state, measured))

    (state, measured), (expected, fine) = after(poisoned, batch), after(batch)
    assert (measured.skipped, fine.skipped) == (0, 0)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)
    _, bad = after(poisoned)
    assert bad.skipped == 1
    assert np.flatnonzero(~np.isfinite(bad.rows.loss)).tolist() == [5], "the row is to be found by its loss"


def poison(monkeypatch, steps):
    """In these updates the fourth row's tokens weigh infinitely much."""
    rows = Mixture.rows

    def poisoned(self, indices):
        found = rows(self, indices)
        for n, i in enumerate(indices):
            if i // 8 in steps and i % 8 == 3 and len(indices) == 8:
                found["loss_weights"][n][found["loss_weights"][n] > 0] = np.inf
        return found

    monkeypatch.setattr(Mixture, "rows", poisoned)


def test_a_run_skips_reports_and_goes_on(toy, tiny_run, tmp_path, monkeypatch, capsys):
    poison(monkeypatch, {4})
    train_tiny(tmp_path / "run", [toy.shards("base")])
    rows = metrics.read(tmp_path / "run")
    assert [row["skipped"] for row in rows] == [0] * 4 + [1] + [0] * 7
    assert rows[4]["loss"] is None
    assert rows[:4] == metrics.read(tiny_run)[:4]
    assert artifact.read_manifest(tmp_path / "run")["counts"]["skipped"] == 1
    (found,) = artifact.read_jsonl(tmp_path / "run" / guards.FILE)
    assert (found["step"], found["kind"]) == (4, "not finite")
    mixture = Mixture([open_shards(toy.shards("base"), verify=False)], (1.0,), 0)
    record = mixture.place(4 * 8 + 3)[1]
    assert found["rows"][0]["record"] == record
    assert found["rows"][0]["documents"] == mixture.sources[0].documents(record)
    assert "step 5: loss not finite, update skipped" in capsys.readouterr().err


def test_too_many_in_a_row_end_the_run_and_keep_what_was_good(toy, tiny_run, tmp_path, monkeypatch):
    more = ["--config.checkpoint.every_steps=3", "--config.guards.max_skipped=2", "--config.log.every_steps=1"]
    with monkeypatch.context() as context:
        poison(context, {2, 3, 6, 7, 8})  # two in a row may be
        with pytest.raises(UserError, match="3 updates in a row, up to number 9, .* not finite"):
            train_tiny(tmp_path / "run", [toy.shards("base")], *more)
    assert not (tmp_path / "run" / artifact.MANIFEST).exists()
    assert len(artifact.read_jsonl(tmp_path / "run" / guards.FILE)) == 5
    train_tiny(tmp_path / "run", [toy.shards("base")], *more)  # the poison is gone: it goes on
    rows = metrics.read(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(12))
    assert all(row["loss"] is not None for row in rows[8:]), (
        "from step 6, or a step or two later: saves wait for each other"
    )


def test_a_spike_names_the_documents_of_the_worst_rows(toy):
    mixture = Mixture([open_shards(toy.shards(name), verify=False) for name in ("base", "aft")], (0.5, 0.5), 0)
    anomalies = Anomalies(mixture, 8, spike=10.0, max_skipped=1, before=[3.0 + 0.01 * (n % 7) for n in range(40)])
    rows = Rows(np.full(8, 3.0, np.float32), np.ones(8, np.float32))
    assert anomalies.judge(40, 3.05, False, rows) is None
    rows.loss[6] = 90.0
    found = anomalies.judge(41, 14.0, False, rows)
    assert found["kind"] == "spike"
    source, record = mixture.place(41 * 8 + 6)
    worst = found["rows"][0]
    assert (worst["source"], worst["record"], worst["loss"]) == (str(mixture.sources[source].directory), record, 90.0)
    listed = (mixture.sources[source].directory / "rows.jsonl").read_text().splitlines()[record]
    assert worst["documents"] == [document for document, _, _ in json.loads(listed)]
    assert anomalies.judge(42, 3.02, False, rows) is None, "one spike does not make the next loss unusual"


def test_no_spike_is_called_while_little_is_known_or_when_switched_off(toy):
    mixture = types.SimpleNamespace()
    few = Anomalies(mixture, 8, spike=10.0, max_skipped=1, before=[3.0] * (guards.ENOUGH - 1))
    assert few.judge(50, 300.0, False, None) is None
    off = Anomalies(mixture, 8, spike=0.0, max_skipped=1, before=[3.0] * 100)
    assert off.judge(50, 300.0, False, None) is None


HANG = """
import sys, threading, time
from pathlib import Path
from msm_jax.guards import Watchdog
dog = Watchdog(float(sys.argv[2]), Path(sys.argv[1]))
def stuck_in_a_collective():
    time.sleep(60)
for _ in range(5):
    dog.beat(); time.sleep(0.1)
if sys.argv[3] == "close":
    dog.close(); time.sleep(3)
else:
    stuck_in_a_collective()
"""


def test_a_hung_update_dumps_stacks_and_ends(tmp_path):
    command = [sys.executable, "-c", HANG, tmp_path]
    done = subprocess.run([*command, "0.01", "hang"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == guards.STATUS_HUNG, done.stderr
    warning, error = done.stderr.splitlines()
    assert warning.startswith("warning: no update ended for 0.01 minutes; stacks are in ")
    assert error.startswith("error: no update ended for 0.02 minutes")
    assert "stuck_in_a_collective" in (tmp_path / "stacks-0.txt").read_text()
    done = subprocess.run([*command, "0.01", "close"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")

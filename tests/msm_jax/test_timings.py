"""Goodput counts what was done and not undone."""

import pytest
from etils import epath

from msm_jax import timings
from msm_jax.spool import Spool


def start(time, step):
    return {"event": "start", "time": time, "step": step}


def window(time, step, seconds):
    return {"event": "steps", "time": time, "step": step, "seconds": seconds}


def test_goodput_of_a_run_that_was_killed():
    rows = [
        start(100.0, 0),
        window(120.0, 10, 10.0),
        {"event": "checkpoint", "time": 121.0, "step": 10, "seconds": 1.0},
        window(130.0, 20, 9.0),  # lost: the run goes on from step 10
        start(150.0, 10),
        window(170.0, 20, 10.0),
    ]
    assert timings.goodput(rows[:4], now=130.0) == pytest.approx(19 / 30)
    assert timings.goodput(rows, now=180.0) == pytest.approx(20 / 80)


def test_a_row_cut_in_half_by_a_kill_is_dropped(tmp_path):
    def opened():
        return timings.Timings(Spool(epath.Path(tmp_path)), tokens_per_step=8, flops=None, peak=None)

    clock = opened()
    clock.event("start", 0)
    clock.close()
    with (tmp_path / timings.FILE).open("a") as f:
        f.write('{"event": "ste')
    clock = opened()
    clock.event("start", 0)
    clock.close()
    assert [row["event"] for row in timings.read(tmp_path)] == ["start", "start"]

"""Wall clocks that are wrong, and a partner that dies: a run depends on neither."""

import signal
import time

import numpy as np
import pytest

from msm_jax import metrics, timings
from tests.faults import checks, kills, watch
from tests.faults.checks import Reference
from tests.faults.command import Workshop

STEPS = 12
DAY = 86400
# Imported by every Python that has it on its path. Each reading of the clock moves it.
WRONG_CLOCK = """
import itertools, os, time

first, step = map(float, os.environ["WRONG_CLOCK"].split())
offsets = itertools.count(first, step)
right, right_ns = time.time, time.time_ns
time.time = lambda: right() + next(offsets)
time.time_ns = lambda: right_ns() + int(next(offsets)) * 10**9
"""


@pytest.fixture(scope="module")
def shop(toy, tmp_path_factory):
    return Workshop(toy, tmp_path_factory.mktemp("clocks"), STEPS)


@pytest.fixture(scope="module")
def whole(shop):
    return Reference.of(kills.left_alone(shop, "single", "whole", "--config.checkpoint.keep=1000")[0])


@pytest.fixture
def clock(tmp_path, shop):
    """Makes the variables of a process whose clock is off by so many days, and jumps so many hours at each reading."""
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "sitecustomize.py").write_text(WRONG_CLOCK)

    def variables(days, hours=0):
        path = f"{tmp_path / 'wrong'}:{shop.environment()['PYTHONPATH']}"
        return {"PYTHONPATH": path, "WRONG_CLOCK": f"{days * DAY} {hours * 3600}"}

    return variables


def wait_for(condition, started):
    until = time.monotonic() + kills.START_SECONDS
    while not condition():
        assert time.monotonic() < until, "nothing happened"
        assert len(started.running()) == len(started.processes), [started.said(i) for i in range(len(started.logs))]
        time.sleep(0.005)


@pytest.mark.parametrize("days", [pytest.param(5, marks=pytest.mark.faults), -5])
def test_a_clock_that_jumps_between_runs_and_back_within(shop, whole, clock, tmp_path, days):
    run = tmp_path / "run"
    with shop.start(run, 1, tmp_path / "first", each=[clock(3, hours=-1)]) as started:
        wait_for(lambda: watch.names(run)[0], started)
        started.send([0], signal.SIGKILL)
    assert max(watch.names(run)[0]) < STEPS, "too late for the test to mean anything"
    with shop.start(run, 1, tmp_path / "second", each=[clock(days, hours=-1)]) as started:
        assert started.wait(kills.START_SECONDS)
        assert started.statuses() == [0], started.said()
        assert watch.start_of(started.said()) > 0
    assert not list(checks.finished(run, whole))
    times = [row["time"] for row in timings.read(run)]
    assert max(times) - min(times) > 2 * DAY, "the clocks were right"


@pytest.mark.faults
@pytest.mark.xfail(reason="Orbax measures its timeouts by the wall clock: a save fails, and the process does not end")
def test_a_clock_that_jumps_forward_within_a_run(shop, whole, clock, tmp_path):
    """Whatever it does, it ends by itself, and with a right clock the run is finished."""
    run = tmp_path / "run"
    with shop.start(run, 1, tmp_path / "first", each=[clock(0, hours=1)]) as started:
        assert started.wait(kills.ALONE_SECONDS), started.said()
    with shop.start(run, 1, tmp_path / "second") as started:
        assert started.wait(kills.START_SECONDS)
        assert started.statuses() == [0], started.said()
    assert not list(checks.finished(run, whole))


@pytest.mark.faults
def test_two_processes_a_day_apart(shop, whole, clock, tmp_path):
    apart = [clock(0), clock(-1)]
    with shop.start(tmp_path / "run", 2, tmp_path / "said", each=apart) as started:
        assert started.wait(kills.START_SECONDS)
        assert started.statuses() == [0, 0], [started.said(i) for i in range(2)]
    found = metrics.read(tmp_path / "run")
    assert [row["step"] for row in found] == list(range(STEPS))
    losses = [[row["loss"] for row in rows] for rows in (found, whole.rows)]
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.faults
@pytest.mark.parametrize("victim", [0, 1])
def test_one_of_two_dies(shop, tmp_path, victim):
    """Killed without a word, the first process or the second: the other does not wait for it for ever."""
    run = tmp_path / "run"
    with shop.start(run, 2, tmp_path / "said", "--config.optim.steps=100000") as started:
        wait_for(lambda: watch.names(run)[0], started)
        assert started.send([victim], signal.SIGKILL) == [victim]
        assert started.wait(kills.ALONE_SECONDS), started.said(1 - victim)
        statuses = started.statuses()
    assert statuses[victim] == -signal.SIGKILL
    assert statuses[1 - victim] != 0

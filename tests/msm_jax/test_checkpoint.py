"""A checkpoint that is not what was saved is told by the array's name; an error of a save is not lost."""

import errno
import shutil
import sys
import time
import types

import jax
import numpy as np
import pytest
import tensorstore as ts
from orbax.checkpoint._src.path import async_path

from msm_jax import checkpoint
from msm_jax.checkpoint import Checkpoints, latest_step
from msm_jax.cli import UserError
from msm_jax.step import State, make_program
from tests.invariants.support import TINY, params_on_mesh
from tests.msm_jax.test_guards import optim


@pytest.fixture
def state(one_device):
    params = params_on_mesh(TINY)
    return State(params, make_program(TINY, None, optim()).optimizer.init(params))


def save(run, state, steps, keep=2, **how):
    checkpoints = Checkpoints(run, "params", keep, **how)
    for step in steps:
        checkpoints.save(step, state, {"said": f"at step {step}"})
    checkpoints.close()


def restore(run, step, state, **how):
    checkpoints = Checkpoints(run, "params", 2, **how)
    try:
        return checkpoints.restore(step, state)
    finally:
        checkpoints.close()


def test_state_and_record_come_back_and_the_newest_are_kept(state, tmp_path):
    save(tmp_path, state, (3, 6, 9))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["6", "9"]
    assert latest_step(tmp_path) == 9
    found, record = restore(tmp_path, 6, state)
    assert record == {"said": "at step 6"}
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)


def change(directory, name):
    """Writes another number into an array, as no damage to files would: all of Orbax's own checks agree with it."""
    kvstore = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{directory}/"}, "path": f"{name}/"}
    array = ts.open({"driver": "zarr3", "kvstore": kvstore}).result()
    before = np.asarray(array.read().result())
    after = before.copy()
    after.flat[after.size // 2] += 1
    array.write(after).result()


@pytest.mark.parametrize(
    ("item", "name", "told"), [("params", "layers.q", "params.layers.q"), ("optimizer", "nu.embed", "optimizer.nu.embed")]
)  # fmt: skip
def test_another_number_is_told_by_its_array(state, tmp_path, item, name, told):
    save(tmp_path, state, (3, 6))
    change(tmp_path / "checkpoints" / "6" / item, name)
    with pytest.raises(UserError, match=rf"checkpoints/6: {told} are not what was saved; .* goes on from step 3"):
        restore(tmp_path, 6, state)
    restore(tmp_path, 3, state)
    restore(tmp_path, 6, state, digests=False)  # nobody looks


def test_digests_may_be_left_out(state, tmp_path):
    save(tmp_path, state, (3,), digests=False)
    restore(tmp_path, 3, state)


@pytest.mark.parametrize("harm", ["record", "missing", "truncated"])
def test_damaged_files_are_one_line(state, tmp_path, harm):
    save(tmp_path, state, (3, 6))
    step = tmp_path / "checkpoints" / "6"
    if harm == "record":
        text = (step / "record" / "data.json").read_text()
        (step / "record" / "data.json").write_text(text.replace("at step 6", "at step 7"))
    elif harm == "missing":
        shutil.rmtree(step / "params" / "d")
        shutil.rmtree(step / "params" / "ocdbt.process_0")
    else:
        for path in (step / "optimizer").rglob("d/*"):
            path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(
        UserError, match=r"checkpoints/6.*remove that directory, and the run goes on from step 3"
    ) as told:
        restore(tmp_path, 6, state)
    assert "\n" not in str(told.value)


def test_the_error_of_a_save_is_raised_at_the_next_look(state, tmp_path, monkeypatch):
    save(tmp_path, state, (3,))
    checkpoints = Checkpoints(tmp_path, "params", 2)

    async def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(async_path, "write_text", full)
    checkpoints.check()
    checkpoints.save(6, state, {})
    while checkpoints.busy:
        time.sleep(0.01)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.check()
    assert latest_step(tmp_path) == 3


def test_what_is_half_written_is_no_checkpoint(state, tmp_path):
    save(tmp_path, state, (3,))
    shutil.copytree(tmp_path / "checkpoints" / "3", tmp_path / "checkpoints" / "9.orbax-checkpoint-tmp")
    assert latest_step(tmp_path) == 3
    assert latest_step(tmp_path / "nowhere") == 0
    save(tmp_path, state, (9,))
    assert latest_step(tmp_path) == 9
    assert checkpoint.directory_of(tmp_path) / "9" in list((tmp_path / "checkpoints").iterdir())


def test_a_read_given_up_says_nothing_and_other_errors_nobody_can_catch_still_speak(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    checkpoint._hush_other_reads()

    @types.coroutine
    def pause():
        yield

    async def read():
        try:
            await pause()
        except GeneratorExit:
            raise ValueError("as Orbax does") from None

    class Loud:
        def __del__(self):
            raise KeyError("not a read")

    begun = read()
    begun.send(None)
    del begun
    assert not told
    Loud()
    assert [type(entry.exc_value) for entry in told] == [KeyError]

"""Any checkpoint of a run can be opened, of one that goes on as well."""

import json
import shutil

import jax
import numpy as np
import pytest

from msm_jax import artifact, checkpoint
from msm_jax.cli import UserError
from msm_jax.pretrained import open_model, open_pretrained


@pytest.fixture
def run(tiny_run, tmp_path):
    """A finished run with a second checkpoint, under another step."""
    shutil.copytree(tiny_run, tmp_path / "run")
    saved = tmp_path / "run" / "checkpoints"
    shutil.copytree(saved / "12", saved / "8")
    return tmp_path / "run"


@pytest.fixture
def going_on(run):
    """The same before it had a manifest, its newest checkpoint unreadable."""
    (run / artifact.MANIFEST).unlink()
    shutil.rmtree(run / "checkpoints" / "12" / "params")
    return run


def arrays(*args, **kwargs):
    model = open_model(*args, **kwargs)
    with jax.sharding.set_mesh(model.mesh):
        return jax.tree.map(np.asarray, model.arrays()[0])


def test_every_step_can_be_opened(run):
    last = arrays(str(run))
    jax.tree.map(np.testing.assert_array_equal, last, arrays(str(run), step=12))
    ids = {open_pretrained(str(run)).id, *(open_pretrained(str(run), step=step).id for step in (8, 12))}
    assert len(ids) == 3
    with pytest.raises(UserError, match="no complete checkpoint of step 5, only of 8, 12 "):
        arrays(str(run), step=5)


def test_steps_of_a_run_that_goes_on(going_on, tiny_run, tmp_path):
    jax.tree.map(np.testing.assert_array_equal, arrays(str(tiny_run)), arrays(f"{going_on}/checkpoints/8"))
    with pytest.raises(
        UserError, match="training is not finished; of an unfinished run, name a step: .*/checkpoints/STEP"
    ):
        open_model(str(going_on))
    with pytest.raises(UserError, match="no run.json, so not a run; only runs have steps"):
        open_pretrained(str(tmp_path), step=4)
    (going_on / "run.json").write_text("{")
    with pytest.raises(UserError, match="run.json: damaged"):
        open_pretrained(str(going_on), step=8)


def test_a_step_is_compared_with_what_was_saved(going_on):
    record = next((going_on / "checkpoints" / "8" / checkpoint.RECORD).glob("*"))
    said = json.loads(record.read_text())
    said["digests"]["params.embed"] += 1
    record.write_text(json.dumps(said))
    with pytest.raises(UserError, match="params.embed are not what was saved; copy it again, or take another step"):
        arrays(str(going_on), step=8)

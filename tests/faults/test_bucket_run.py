"""A run whose rows and results are in a bucket that fails, killed on its way: the weights and metrics of a quiet disk."""

import dataclasses
import json
import os
import signal
import time
import urllib.error
import urllib.request

import pytest

from tests.faults import checks, gcs, kills, proxy, watch
from tests.faults.checks import Reference
from tests.faults.command import Workshop

STEPS = 12
UPLOAD = """
import sys
from pathlib import Path
from msm_jax import storage

bucket, *directories = sys.argv[1:]
for directory in map(Path, directories):
    for name in storage.files(directory):
        storage.copy(directory / name, storage.at(bucket) / directory.name / name)
"""
READ = """
import json, sys
import jax
from msm_jax import artifact, checkpoint, export, metrics, pretrained, storage, timings

run, adapter = sys.argv[1:]
model = pretrained.open_model(run)
with jax.sharding.set_mesh(model.mesh):
    model.arrays()  # compared with the manifest's sha256
export.main(["", "--config=configs/export.py", f"--config.model={run}", f"--config.out={adapter}"])
exported = pretrained.open_model(adapter)
with jax.sharding.set_mesh(exported.mesh):
    digest = checkpoint.params_digest(exported.arrays()[0])
print(json.dumps({
    "digest": artifact.read_manifest(run)["files"]["params"]["sha256"], "exported": digest,
    "rows": metrics.read(run), "starts": [row["step"] for row in timings.read(run) if row["event"] == "start"],
    "names": sorted(storage.files(run)),
}))
"""


def there(direct, name):
    """Is this object in the bucket?"""
    try:
        urllib.request.urlopen(f"{direct.url}/storage/v1/b/msm/o/{name.replace('/', '%2F')}", timeout=10)
        return True
    except urllib.error.HTTPError:
        return False


@pytest.mark.faults  # more than a minute each
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_run_in_a_bucket(toy, tmp_path, seed):
    shop = Workshop(toy, tmp_path, STEPS)
    whole = Reference.of(kills.left_alone(shop, "single", "whole")[0])
    with gcs.serve(tmp_path) as direct, proxy.serve(direct.url, seed=seed, share=0.0) as between:
        failing = direct.behind(between.url)
        directories = [toy.shards(name) for name in ("msm-affordability", "base")]
        failing.run(UPLOAD, direct.bucket, *directories)
        sources = tuple(f"{direct.bucket}/{directory.name}" for directory in directories)
        out, shop = f"{direct.bucket}/run", dataclasses.replace(shop, sources=sources)
        environment = {k: v for k, v in failing.env.items() if os.environ.get(k) != v and k != "PYTHONPATH"}
        between.share = 0.04
        said, killed = [], []  # what each start said; of those that failed, in one line
        for attempt in range(6):
            with shop.start(out, 1, tmp_path / f"said{attempt}", each=[environment]) as started:
                until = time.monotonic() + kills.START_SECONDS
                while started.running() and (killed or not there(direct, "run/checkpoints/3/commit_success.txt")):
                    assert time.monotonic() < until, started.said()
                    time.sleep(0.01)
                alive = started.send([0], signal.SIGKILL)
                started.processes[0].wait()
                (status,) = started.statuses()
                said.append(started.said())
            killed += alive
            if status == 0:
                break
            assert not there(direct, "run/manifest.json"), said
            assert "Traceback" not in said[-1], said[-1]
            assert alive or sum(line.startswith("error: ") for line in said[-1].splitlines()) == 1, said[-1]
        assert status == 0, said
        assert between.done() > 0, "nothing failed"
        between.share = 0.0
        found = json.loads(failing.run(READ, out, f"{direct.bucket}/hf").splitlines()[-1])
    assert found["digest"] == found["exported"] == whole.digest
    assert found["rows"] == whole.rows
    assert watch.start_of(said[-1]) == found["starts"][-1] >= 3, said
    assert not [name for name in found["names"] if "tmp" in name]
    steps = {name.split("/")[1] for name in found["names"] if name.startswith("checkpoints/")}
    assert str(STEPS) in steps
    assert len(steps) <= 2, "older checkpoints are left behind"
    assert not list(checks.finished(whole.run, whole))

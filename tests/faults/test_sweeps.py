"""Killed over and over, a sweep ends as if nobody had touched it, and judges nothing twice."""

import pytest

from tests.faults import sweeps
from tests.gcs import gcs  # noqa: F401


@pytest.mark.faults
def test_a_killed_sweep_judges_nothing_twice(tmp_path):
    report = sweeps.play(tmp_path, cells=12, kills=3, seed=1)
    assert report["kills"] == 3
    assert report["questions"] >= 120
    assert not sweeps.wrong(report), report


TO_A_BUCKET = """
import sys
from evals import report, sweep
from tests.evals import sweeping
_, out, page = sys.argv[:3]
flags = ["--config.models=('scripted/4',)", "--config.tasks=('judged_choice:cells=a',)", "--config.judge=scripted/judge"]
command = ["", "--config=configs/evals/sweep.py", f"--config.out={out}", *flags]
sweep.main(command)
asked = len(sweeping.Scripted.asked)
sweep.main(command)
assert len(sweeping.Scripted.asked) == asked == 20
report.main(["", "--config=configs/evals/report.py", f"--config.sweeps=({out!r},)", f"--config.out={page}"])
"""


@pytest.mark.faults
def test_a_sweep_and_its_page_may_be_in_a_bucket(tmp_path, gcs, monkeypatch):  # noqa: F811
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(tmp_path / "cache"))
    out = f"{gcs.bucket}/sweep"
    gcs.run(TO_A_BUCKET, out, tmp_path / "page")
    names = gcs.run("import sys; from msm_jax import storage; print(*storage.files(sys.argv[1]))", out).split()
    assert {"manifest.json", "results.jsonl", "summary.json", "sweep.json", "curves.png"} <= set(names)
    assert sum(name.endswith(".eval") for name in names) == 1
    assert not any(name.startswith("cache/") for name in names)
    assert any((tmp_path / "cache").rglob("*"))
    assert "judged_choice" in (tmp_path / "page" / "report.html").read_text()
    assert (tmp_path / "page" / "bundle0" / "index.html").is_file()

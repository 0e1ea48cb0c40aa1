"""A damaged checkpoint or a full disk ends a run in one clear line, or does not matter; never in other weights."""

import dataclasses
import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from msm_jax import artifact, metrics
from msm_jax.cli import UserError
from tests.conftest import ROOT, train_tiny
from tests.faults import checks, kills, watch
from tests.faults.checks import Reference
from tests.faults.command import Workshop

STEPS, AT = 12, 6
EVERY = ["--config.checkpoint.every_steps=6", "--config.checkpoint.keep=1000"]


@pytest.fixture(scope="module")
def shop(toy, tmp_path_factory):
    return Workshop(toy, tmp_path_factory.mktemp("damage"), STEPS)


@pytest.fixture(scope="module")
def whole(shop):
    """A run left alone, with all its checkpoints."""
    return Reference.of(kills.left_alone(shop, "single", "whole", "--config.checkpoint.keep=1000")[0])


@pytest.fixture(scope="module")
def here(toy, tmp_path_factory):
    """The same, made in this process: for what needs no process of its own."""
    run = tmp_path_factory.mktemp("here") / "run"
    before = Path.cwd()
    os.chdir(ROOT)
    train_tiny(run, [toy.shards("base")], *EVERY)
    os.chdir(before)
    return Reference.of(run)


@pytest.fixture
def stopped(here, tmp_path):
    """That run as a kill just after a save would leave it: its newest checkpoint is of step AT."""
    run = tmp_path / "run"
    shutil.copytree(here.run, run)
    (run / artifact.MANIFEST).unlink()
    for step in watch.names(run)[0]:
        if step > AT:
            shutil.rmtree(run / "checkpoints" / str(step))
    return run


def finish(shop, run, logs, *more):
    """Starts the command and waits for its end: exit status and what it said."""
    with shop.start(run, 1, logs, *more) as started:
        assert started.wait(kills.START_SECONDS), started.said()
        return started.statuses()[0], started.said()


def assert_one_line(status, said, expected=(1, 2, 3)):
    assert status in expected
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, said
    assert "Traceback" not in said, said


@dataclasses.dataclass(frozen=True)
class Harm:
    """What is done to which file of a checkpoint: `kind` to the first file whose path matches, at a drawn place."""

    kind: str
    file: str
    seed: int = 0

    def do(self, step: Path) -> str:
        rng = random.Random(f"{self.kind}{self.file}{self.seed}")
        found = sorted(p for p in step.rglob("*") if p.is_file() and re.search(self.file, str(p.relative_to(step))))
        path = rng.choice(found)
        raw = bytearray(path.read_bytes())
        at = rng.randrange(len(raw))
        if self.kind == "removed":
            path.unlink()
        elif self.kind == "truncated":
            path.write_bytes(raw[:at])
        elif self.kind == "emptied":
            path.write_bytes(b"")
        elif self.kind == "zeroed":  # a page that never reached the disk
            raw[at : at + 512] = bytes(len(raw[at : at + 512]))
            path.write_bytes(raw)
        else:
            raw[at] ^= 1 << rng.randrange(8)
            path.write_bytes(raw)
        return f"{self.kind}: {path.relative_to(step)} at {at} of {len(raw)}"


ARRAYS = r"ocdbt\.process_0/d/"
HARMS = [
    *(Harm("flipped", f"params/{ARRAYS}", seed) for seed in range(2)),
    Harm("flipped", f"optimizer/{ARRAYS}"),
    Harm("flipped", r"(params|optimizer)/d/"),
    Harm("flipped", "ocdbt$"),
    Harm("flipped", "_METADATA$"),
    *(Harm("flipped", r"record/data\.json$", seed) for seed in range(2)),
    Harm("truncated", f"optimizer/{ARRAYS}"),
    Harm("truncated", "_METADATA$"),
    Harm("truncated", r"record/data\.json$"),
    Harm("emptied", f"params/{ARRAYS}"),
    Harm("zeroed", f"params/{ARRAYS}"),
    Harm("removed", f"optimizer/{ARRAYS}"),
    *(Harm("removed", ".", seed) for seed in range(2)),
]


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: f"{harm.kind} {harm.file} {harm.seed}")
def test_a_damaged_checkpoint_is_never_another_run(toy, here, stopped, harm):
    """Where the damage was not read, or an older checkpoint served: the same run. Else one line, and nothing changed."""
    what = harm.do(stopped / "checkpoints" / str(AT))
    before = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file() and "checkpoints" in path.parts}
    said = ""
    try:
        train_tiny(stopped, [toy.shards("base")], *EVERY)
    except UserError as error:
        said = str(error)
    if said:
        assert "\n" not in said, what
        assert f"checkpoints/{AT}" in said, what
        assert not (stopped / artifact.MANIFEST).exists()
        assert all(path.read_bytes() == raw for path, raw in before.items()), f"{what}: and changed afterwards"
    else:
        assert checks.digest(stopped) == here.digest, f"{what}: other weights"
        assert metrics.read(stopped) == here.rows, f"{what}: other metrics"


def test_the_command_says_it_in_one_line(shop, whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole.run, run)
    (run / artifact.MANIFEST).unlink()
    newest = max(watch.names(run)[0])
    Harm("truncated", f"optimizer/{ARRAYS}").do(run / "checkpoints" / str(newest))
    status, said = finish(shop, run, tmp_path / "said")
    assert_one_line(status, said, (2,))
    assert f"checkpoints/{newest}: cannot be read" in said


def mount(where, size, *more):
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *more]), "tmpfs", str(where)], capture_output=True
    )
    if done.returncode:
        pytest.skip("only root can make a small disk")


@pytest.fixture
def small_disk(tmp_path):
    """A directory with room for less than the run."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        mount(disk, "500k")
    except FileNotFoundError:
        pytest.skip("no mount here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_ends_in_one_line_and_the_run_goes_on(shop, whole, small_disk, tmp_path):
    every = "--config.checkpoint.keep=1000"
    run = small_disk / "run"
    status, said = finish(shop, run, tmp_path / "first", every)
    assert_one_line(status, said, (3,))
    assert said.splitlines()[-1].startswith("error: no space left"), said
    assert not (run / artifact.MANIFEST).exists()
    mount(small_disk, "8m", "remount")
    status, said = finish(shop, run, tmp_path / "second", every)
    assert status == 0, said
    assert not list(checks.finished(run, whole))


@pytest.mark.faults
def test_a_disk_full_from_the_beginning(shop, whole, small_disk, tmp_path):
    """Not even the first file has room: the same line, and nothing that would stand in the way later."""
    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free))
    status, said = finish(shop, small_disk / "run", tmp_path / "first")
    assert_one_line(status, said, (3,))
    filler.unlink()
    mount(small_disk, "8m", "remount")
    status, said = finish(shop, small_disk / "run", tmp_path / "second")
    assert status == 0, said
    assert checks.digest(small_disk / "run") == whole.digest

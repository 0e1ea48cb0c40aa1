"""The loop: nothing is compiled or moved unasked in it, and it says what its time went into."""

import contextlib

import jax
import numpy as np
import pytest

from msm_jax import artifact, metrics, perf, timings, train
from msm_jax.cli import UserError
from msm_jax.mixture import Mixture
from msm_jax.shards import open_shards
from tests.conftest import train_tiny


@contextlib.contextmanager
def watched(monkeypatch):
    """In the loop of a run, implicit transfers are errors; yields the names of what is compiled there."""
    compiled, inside = [], []
    begin, close = metrics.Writer.__init__, metrics.Writer.close

    def beginning(*args):
        begin(*args)
        inside.append(True)
        jax.config.update("jax_transfer_guard", "disallow")

    def closing(self):
        close(self)
        inside.clear()
        jax.config.update("jax_transfer_guard", "allow")

    def heard(event, duration, **_):
        if inside and "compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(heard)
    with monkeypatch.context() as context:
        context.setattr(metrics.Writer, "__init__", beginning)
        context.setattr(metrics.Writer, "close", closing)
        try:
            yield compiled
        finally:
            jax.config.update("jax_transfer_guard", "allow")
            jax.monitoring.unregister_event_duration_listener(heard)


def test_the_guard_guards():
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        jax.jit(lambda x: x + 1)(np.ones(3))


def test_nothing_is_compiled_or_moved_unasked_in_the_loop(toy, tiny_run, tmp_path, monkeypatch):
    more = ["--config.log.every_steps=2", "--config.checkpoint.every_steps=5", "--config.log.profile_start=2"]
    with watched(monkeypatch) as compiled:
        train_tiny(tmp_path / "run", [toy.shards("base")], *more, "--config.log.profile_steps=2")
    assert not compiled
    assert metrics.read(tmp_path / "run") == metrics.read(tiny_run), "when values are fetched changes nothing"
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
    rows = timings.read(tmp_path / "run")
    events = [(row["event"], row["step"]) for row in rows]
    assert events[:6] == [("start", 0), ("ready", 1), ("steps", 2), ("steps", 4), ("steps", 5), ("checkpoint", 5)]
    assert events[-2:] == [("checkpoint", 12), ("end", 12)]  # that of step 10 waits until the first is on disk
    assert sum(row.get("updates", 0) for row in rows) == 12


def test_windows_say_what_the_rows_hold(toy, tmp_path, monkeypatch):
    """On a chip that somebody knows, MFU is the arithmetic of the real tokens over what the devices could do."""
    chip = perf.Chip("ours", flops=1e9, hbm=0, bandwidth=0)
    monkeypatch.setattr(perf, "chip_of", lambda kind: chip)
    train_tiny(tmp_path / "run", [toy.shards("aft")], "--config.log.every_steps=100")
    (window,) = [row for row in timings.read(tmp_path / "run") if row["event"] == "steps"]
    mixture = Mixture([open_shards(toy.shards("aft"), verify=False)], (1.0,), 0)
    rows = mixture.rows(range(12 * 8))
    real = rows["segment_ids"] > 0
    assert window["useful_fraction"] == pytest.approx(real.mean())
    assert window["supervised_fraction"] == pytest.approx((rows["loss_weights"] > 0).sum() / real.sum())
    assert window["tokens_per_second"] * window["seconds"] == pytest.approx(12 * 8 * 64)
    config = artifact.read_manifest(tmp_path / "run")["config"]["model"]
    flops = perf.step_flops(train.ModelConfig(**config), None, real.sum(), (rows["positions"] + 1)[real].sum())
    assert window["mfu"] == pytest.approx(flops / window["seconds"] / (8 * chip.flops))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.seq_len=128", "config.data.seq_len = 128: .*base has rows of 64"),
        ("model.V=100", "the tokenizer has .* ids, the model's embedding 100 rows"),
    ],
)
def test_what_is_said_of_the_data_must_be_so(toy, tmp_path, setting, message):
    with pytest.raises(UserError, match=message):
        train_tiny(tmp_path / "run", [toy.shards("base")], f"--config.{setting}")
    assert not (tmp_path / "run").exists()


def test_a_vocabulary_is_checked_against_the_starts(toy, tiny_run, tmp_path):
    with pytest.raises(UserError, match=r"another model than config.model \(V = 256 there, 512 here\)"):
        train_tiny(tmp_path / "run", [toy.shards("base")], f"--config.init_from={tiny_run}", "--config.model.V=512")


def test_an_epoch_written_out_is_the_same_recipe(toy, tmp_path):
    """34 rows: 4 updates of 8."""
    train_tiny(tmp_path / "run", [toy.shards("aft")], "--config.optim.steps=0")
    manifest = artifact.read_manifest(tmp_path / "run")
    assert manifest["counts"]["updates"] == 4
    train_tiny(tmp_path / "run", [toy.shards("aft")], "--config.optim.steps=4")  # skipped, not refused


def test_programs_are_kept_unless_jax_was_told_otherwise(tmp_path, monkeypatch):
    def kept():
        return jax.config.values["jax_compilation_cache_dir"]

    before = kept()
    train.keep_programs(str(tmp_path))
    assert kept() == before, "the environment said where"
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        train.keep_programs("")
        assert kept() is None
        monkeypatch.chdir(tmp_path)
        train.keep_programs("here")
        assert kept() == str(tmp_path / "here")
        jax.config.update("jax_compilation_cache_dir", None)
        train.keep_programs("gs://bucket/programs")
        assert kept() == "gs://bucket/programs"
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_the_start_is_told_in_its_parts(tiny_run):
    (ready,) = [row for row in timings.read(tiny_run) if row["event"] == "ready"]
    parts = ("imports", "data and checks", "initial arrays", "compile", "first update")
    assert ready["seconds"] == pytest.approx(sum(ready[part] for part in parts))
    assert all(ready[part] >= 0 for part in parts)
    assert ready["step"] == 1

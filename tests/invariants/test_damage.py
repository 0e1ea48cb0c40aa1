"""Damaged or missing data is an error that names the file; never a wrong number."""

import json
import shutil

import numpy as np
import pytest

from data_gen.shards import SIDECAR
from msm_jax.cli import UserError
from msm_jax.mixture import Mixture
from msm_jax.shards import open_shards
from tests.conftest import train_tiny


@pytest.fixture
def copied(toy, tmp_path):
    shutil.copytree(toy.shards("aft"), tmp_path / "aft")
    return tmp_path / "aft"


def test_flipped_byte_is_named_before_training(copied, tmp_path):
    path = copied / "rows-00000.array_record"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 3] ^= 0x10
    path.write_bytes(raw)
    with pytest.raises(UserError, match=r"rows-00000\.array_record: content differs"):
        train_tiny(tmp_path / "run", [copied])
    assert not (tmp_path / "run").exists()


def test_flipped_bytes_are_never_a_wrong_row(toy, tmp_path):
    """With hashing off, whatever byte is flipped: an error, or the right rows."""
    source = toy.shards("aft")
    good = Mixture([open_shards(source, verify=False)], (1.0,), 0)
    indices = range(len(good.sources[0].source))
    wanted = good.rows(indices)
    raw = (source / "rows-00000.array_record").read_bytes()
    errors = 0
    for n, at in enumerate(np.linspace(0, len(raw) - 1, 25).astype(int)):
        copy = tmp_path / str(n)
        shutil.copytree(source, copy)
        damaged = bytearray(raw)
        damaged[at] ^= 0x40
        (copy / "rows-00000.array_record").write_bytes(damaged)
        message = ""
        try:
            found = Mixture([open_shards(copy, verify=False)], (1.0,), 0).rows(indices)
        except UserError as error:
            message = str(error)
            errors += 1
        if message:
            assert str(copy) in message
        else:
            for field in wanted:
                np.testing.assert_array_equal(found[field], wanted[field])
    assert errors > 0


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda d: (d / "rows-00000.array_record").write_bytes(b""), "0 bytes, the manifest says"),
        (lambda d: (d / "rows-00000.array_record").unlink(), "missing"),
        (lambda d: (d / "manifest.json").unlink(), "no manifest.json"),
        (lambda d: (d / "manifest.json").write_text("{"), "not a manifest of ours"),
        (lambda d: shutil.rmtree(d), "no such directory"),
    ],
    ids=["truncated", "missing file", "no manifest", "broken manifest", "missing directory"],
)
def test_damaged_directory(copied, tmp_path, harm, message):
    harm(copied)
    with pytest.raises(UserError, match=message) as found:
        train_tiny(tmp_path / "run", [copied])
    assert "\n" not in str(found.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["tokenizer.model", "chat_format.json", "rows.jsonl"])
def test_every_file_is_checked(copied, tmp_path, name):
    raw = bytearray((copied / name).read_bytes())
    raw[len(raw) // 2] ^= 0x01
    (copied / name).write_bytes(raw)
    with pytest.raises(UserError, match=f"{name}: content differs"):
        train_tiny(tmp_path / "run", [copied])


def test_a_run_of_another_tokenizer_is_no_start(toy, tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run")
    form = json.loads((tmp_path / "run" / "chat_format.json").read_text())
    (tmp_path / "run" / "chat_format.json").write_text(json.dumps(form | {"user": "Human : "}))
    with pytest.raises(UserError, match="has another tokenizer"):
        train_tiny(tmp_path / "next", [toy.shards("aft")], f"--config.init_from={tmp_path / 'run'}")


def test_a_foreign_checkpoint_is_refused(toy, tiny_run, tmp_path):
    train_tiny(tmp_path / "other", [toy.shards("base")], "--config.seed=3")
    shutil.copytree(tiny_run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    shutil.copytree(tmp_path / "other" / "checkpoints", tmp_path / "run" / "checkpoints")
    with pytest.raises(UserError, match="the checkpoint is not the one"):
        train_tiny(tmp_path / "next", [toy.shards("aft")], f"--config.init_from={tmp_path / 'run'}")


def test_foreign_directory(toy, tmp_path):
    with pytest.raises(UserError, match="holds 'corpora', but 'shards' is wanted"):
        train_tiny(tmp_path / "run", [toy.world])


def test_manifest_that_does_not_match_its_rows(copied, tmp_path):
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["counts"]["rows"] += 1
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="what the manifest says"):
        train_tiny(tmp_path / "run", [copied])


def test_sidecar_tells_every_tokens_document(toy):
    """Row → segment → document: the sidecar's lengths are the segments'."""
    shards = open_shards(toy.shards("base"), verify=True)
    sidecar = [json.loads(line) for line in (toy.shards("base") / SIDECAR).read_text().splitlines()]
    assert len(sidecar) == len(shards.source)
    seen = []
    for i, segments in enumerate(sidecar):
        ids = shards.row(shards.source[i])["segment_ids"]
        assert [int((ids == n + 1).sum()) for n in range(len(segments))] == [length for _, _, length in segments]
        seen += [document for document, _, _ in segments]
    assert len(seen) == len(set(seen)) == shards.manifest["counts"]["documents"]

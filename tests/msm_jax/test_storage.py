"""Files and artefacts in buckets: by the same verbs as here, complete where there is a manifest, errors in one line."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from msm_jax import artifact, cli, storage
from msm_jax.cli import UserError
from tests.conftest import ROOT
from tests.gcs import Gcs, gcs  # noqa: F401

FILES = """
import hashlib, io, sys
from pathlib import Path
import fsspec
from msm_jax import storage
from msm_jax.cli import UserError
bucket, here = sys.argv[1], Path(sys.argv[2])
place = storage.at(bucket) / "files"
text = "first line, ü\\nsecond\\n"
storage.write_atomic(place / "a.txt", text)
storage.write_atomic(place / "below/b.bin", b"12345")
assert storage.read_text(place / "a.txt") == text and storage.read_bytes(place / "below/b.bin") == b"12345"
assert list(storage.reading_text(place / "a.txt")) == text.splitlines(keepends=True)
assert storage.files(place) == {"a.txt": len(text.encode()), "below/b.bin": 5}
assert storage.size(place / "below/b.bin") == 5
assert storage.is_file(place / "a.txt") and not storage.is_dir(place / "a.txt")
assert storage.is_dir(place / "below") and not storage.is_file(place / "below")
assert not storage.is_file(place / "none") and storage.files(place / "none") == {}

# Larger than what is sent in one request, and than a block.
big = bytes(range(256)) * (storage.BLOCK // 256) + b"more"
(here / "big").write_bytes(big)
storage.copy(here / "big", place / "big")
heard = []
assert storage.sha256(place / "big", heard.append) == hashlib.sha256(big).hexdigest() == storage.sha256(here / "big")
assert heard == [storage.BLOCK, 4]

# What somebody else writes is seen at once.
other = fsspec.filesystem("gs", skip_instance_cache=True)
other.pipe_file(str(place / "a.txt"), b"new")
other.pipe_file(str(place / "c.txt"), b"")
assert storage.read_text(place / "a.txt") == "new" and storage.size(place / "a.txt") == 3
assert set(storage.files(place)) == {"a.txt", "below/b.bin", "big", "c.txt"}
other.rm_file(str(place / "c.txt"))
assert not storage.is_file(place / "c.txt")

copies = storage.nearby(place, ("a.txt", "none"))
assert {p.name: p.read_text() for p in copies.iterdir()} == {"a.txt": "new"}
storage.delete([place / "big", place / "none"])
assert set(storage.files(place)) == {"a.txt", "below/b.bin"}
for wrong in (lambda: storage.write_atomic("gs://other/x", ""), lambda: storage.copy(here / "big", "gs://other/x"),
              lambda: storage.files("gs://other/x"), lambda: storage.at("s3://bucket")):
    try:
        wrong()
    except UserError as error:
        print(error)
"""


def test_files_in_a_bucket(gcs, tmp_path):  # noqa: F811
    *missing, foreign = gcs.run(FILES, f"{gcs.bucket}/verbs", tmp_path).splitlines()
    assert len(missing) == 3
    assert all("there is no bucket gs://other; make it or mend the address" in line for line in missing)
    assert foreign == "s3://bucket: neither a local path nor a gs:// address"


JOBS = """
import sys
from pathlib import Path
from msm_jax import artifact, storage
from msm_jax.cli import UserError
bucket = storage.at(sys.argv[1])

def make(out, seed, die_after=None, reader=artifact.read_manifest):
    job = artifact.begin(out, "thing", {"seed": seed}, {})
    if job is None:
        return None
    with job:
        scratch = job.tmp
        for n in range(6):
            if n == die_after:
                raise KeyboardInterrupt
            (job.tmp / f"{n}.txt").write_text(f"{seed} {n}")
            if n < 3:
                job.done(job.tmp / f"{n}.txt")
                assert storage.is_remote(out) != (job.tmp / f"{n}.txt").exists()
        (job.tmp / "below").mkdir()
        (job.tmp / "below/x").write_text("x")
        made = job.finish(count=6)
    assert not scratch.exists()
    return made

def refused(*args):
    try:
        make(*args)
    except UserError as error:
        print(error)

out = bucket / "thing"
try:
    make(out, 1, 2)
except KeyboardInterrupt:
    assert set(storage.files(out)) == {"unfinished.json", "0.txt", "1.txt"}, storage.files(out)
refused(out, 2)
storage.write_atomic(out / "9.txt", "of an attempt by other code")
made = make(out, 1)
assert set(storage.files(out)) == {*(f"{n}.txt" for n in range(6)), "below/x", "manifest.json"}
assert made == artifact.read_manifest(out, "thing") and set(made["files"]) == set(storage.files(out)) - {"manifest.json"}
here = make(Path(sys.argv[2]) / "thing", 1)
assert here == made, "the same artefact, wherever it is made"
assert make(out, 1) is None
refused(out, 2)
storage.write_atomic(bucket / "foreign/x", "x")
refused(bucket / "foreign", 1)
artifact.discard(out)
assert storage.files(out) == {}
assert make(out, 2)["counts"] == {"count": 6}
refused("gs://other/thing", 1)
"""


def test_an_artefact_in_a_bucket_is_complete_or_has_no_manifest(gcs, tmp_path):  # noqa: F811
    unfinished, other, foreign, missing = gcs.run(JOBS, f"{gcs.bucket}/jobs", tmp_path).splitlines()
    assert "thing: unfinished, and of another recipe (different config: seed); finish it, delete it or" in unfinished
    assert "thing: made by another recipe (different config: seed)" in other
    assert "foreign: not empty and no manifest.json" in foreign
    assert "there is no bucket gs://other" in missing


PIPELINE = """
import json, sys
from pathlib import Path
import jax, numpy as np
from data_gen import receipt, shards, tokenizer, verify
from data_gen.toy import write
from evals.toy import forced_choice
from msm_jax import artifact, convert, export, storage
from msm_jax.pretrained import open_model, open_pretrained
from msm_jax.shards import open_shards
bucket, run, here = storage.at(sys.argv[1]), sys.argv[2], Path(sys.argv[3])

def do(command, config, **settings):
    command.main(["", f"--config=configs/{config}.py", *(f"--config.{k}={v}" for k, v in settings.items())])

# Documents → tokenizer → rows: there and here the same.
for place in (bucket, here):
    small = {f"documents.{name}": n for name, n in (("base", 300), ("msm", 20), ("aft", 20), ("it", 20))}
    do(write, "toy/world", out=place / "world", **small)
    base = place / "world/base.jsonl"
    do(tokenizer, "toy/tokenizer", out=place / "tokenizer", documents=(str(base),))
    do(shards, "toy/shards", documents=base, tokenizer=place / "tokenizer", out=place / "rows", rows_per_shard=30)
do(shards, "toy/shards", documents=base, tokenizer=place / "tokenizer", out=place / "rows", rows_per_shard=30)
there, local = (open_shards(place / "rows", verify=True) for place in (bucket, here))
assert there.manifest == local.manifest
keys = list(range(len(local.source)))[::-1]
assert len(keys) > 90
for a, b in zip(there.read(keys), local.read(keys), strict=True):
    for field in a:
        np.testing.assert_array_equal(a[field], b[field])
do(receipt, "data/receipt", tokenizer=bucket / "rows", documents=bucket / "world/base.jsonl", rows=1)
try:
    verify.main(["", str(bucket / "rows"), str(bucket / "world")])
except SystemExit as ended:
    assert ended.code == 0

# A run there: all but its arrays, which Orbax reads. What is made of the local one: an export, a checkpoint.
for name in storage.files(run):
    if "checkpoints" not in name:
        storage.copy(Path(run) / name, bucket / "run" / name)
there, local = open_pretrained(str(bucket / "run")), open_pretrained(run)
assert there.id == local.id and there.shape == local.shape
assert there.tokenizer().digest() == local.tokenizer().digest()
for place in (bucket, here):
    do(export, "export", model=run, out=place / "hf", shard_gb=1e-5)
    do(convert, "convert", model=place / "hf", out=place / "model")
assert artifact.read_manifest(bucket / "hf") == artifact.read_manifest(here / "hf")
assert len(artifact.read_manifest(bucket / "hf")["files"]) > 8
assert artifact.read_manifest(bucket / "model")["id"] == artifact.read_manifest(here / "model")["id"]
assert storage.is_file(bucket / "model/hf/config.json")
assert storage.is_file(bucket / "model/checkpoints/0/params/layers.q/zarr.json")
models = [open_model(str(place)) for place in (bucket / "hf", run)]
arrays = []
for model in models:
    with jax.sharding.set_mesh(model.mesh):
        arrays.append(jax.tree.map(np.asarray, model.arrays()))
jax.tree.map(np.testing.assert_array_equal, *arrays)

items = [row for row in artifact.read_jsonl(sys.argv[4])][:4]
storage.write_atomic(bucket / "items.jsonl", "".join(json.dumps(row) + "\\n" for row in items))
for place in (bucket, here):
    do(forced_choice, "toy/forced_choice", run=run, item_file=bucket / "items.jsonl", out=place / "eval")
assert artifact.read_jsonl(bucket / "eval/results.jsonl") == artifact.read_jsonl(here / "eval/results.jsonl")
print("all the same")
"""


def test_from_documents_to_an_evaluation_in_a_bucket(gcs, toy, tiny_run, tmp_path):  # noqa: F811
    said = gcs.run(PIPELINE, f"{gcs.bucket}/pipeline", tiny_run, tmp_path, toy.world / "items.jsonl").splitlines()
    assert said[-1] == "all the same"
    assert any(line.startswith(f"{gcs.bucket}/pipeline/rows: fine (") for line in said)
    assert any(line.startswith(f"{gcs.bucket}/pipeline/world: fine (corpora") for line in said)


@pytest.fixture
def forbidden():
    """A server that refuses everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            said = json.dumps({"error": {"code": 403, "message": "somebody does not have storage.objects.get access"}})
            self.send_response(403)
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Gcs(f"http://127.0.0.1:{server.server_address[1]}")
    server.shutdown()


def test_a_refusal_is_one_line(forbidden):
    pytest.importorskip("gcsfs")
    command = [sys.executable, "-m", "data_gen.verify", "gs://msm/rows"]
    done = subprocess.run(command, env=forbidden.env, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: no permission in the bucket (Forbidden: ")


def raised(module, name, text, **facts):
    kind = type(name, (Exception,), {"__module__": module})
    error = kind(text)
    vars(error).update(facts)
    return error


ANSWER = "[http_response_body='{\\\"error\\\": {}}'] [http_response_code='%d']"


@pytest.mark.parametrize(
    ("error", "words", "status"),
    [
        (OSError("Forbidden: b/msm/o\nx@y does not have storage.objects.list access"), "no permission", 2),
        (ValueError(f"PERMISSION_DENIED: x@y does not have access {ANSWER % 403}"), "no permission", 2),
        (ValueError(f"PERMISSION_DENIED: Invalid Credentials {ANSWER % 401}"), "no valid credentials", 2),
        (raised("gcsfs.retry", "HttpError", "Invalid Credentials, 401", code=401), "no valid credentials", 2),
        (raised("google.auth.exceptions", "DefaultCredentialsError", "not found"), "no valid credentials", 2),
        (FileNotFoundError("https://storage.googleapis.com/upload/storage/v1/b/other/o"), "no such bucket", 2),
        (FileNotFoundError("http://host/upload/storage/v1/b/msm/o?uploadType=resumable&upload_id=1"), "connection", 3),
        (ValueError(f"NOT_FOUND: The specified bucket does not exist. {ANSWER % 404}"), "no such bucket", 2),
        (raised("gcsfs.retry", "HttpError", "exceeded the rate limit, 429", code=429), "quota or rate limit", 3),
        (ValueError(f"ABORTED: All 32 retry attempts failed: exceeded {ANSWER % 429}"), "quota or rate limit", 3),
        (raised("gcsfs.retry", "HttpError", "try again, 503", code=503), "connection to the bucket failed", 3),
        (
            raised("aiohttp.client_exceptions", "ClientConnectorError", "Cannot connect"),
            "connection to the bucket failed",
            3,
        ),
        (raised("aiohttp.client_exceptions", "ServerDisconnectedError", ""), "(ServerDisconnectedError)", 3),
        (raised("gcsfs.retry", "ChecksumError", "MD5"), "connection to the bucket failed", 3),
        (raised("google.auth.exceptions", "TransportError", "no route"), "connection to the bucket failed", 3),
        (ValueError("ABORTED: All 32 retry attempts failed: CURL error Could not [curl_code='7']"), "bucket failed", 3),
    ],
)
def test_what_buckets_refuse_is_one_line(error, words, status):
    try:
        raise RuntimeError("saving failed") from error
    except RuntimeError as wrapped:
        for found in (error, wrapped, ExceptionGroup("several", [error])):
            line, code = cli.explained(found)
            assert words in line
            assert "\n" not in line
            assert "http_response" not in line
            assert code == status


@pytest.mark.parametrize(
    "error",
    [ValueError("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes"), FileNotFoundError(2, "No such file", "x"),
     RuntimeError("UNAVAILABLE: heartbeat"), ConnectionResetError(104, "reset"), OSError("something else")],
)  # fmt: skip
def test_what_is_no_buckets_fault_is_left_alone(error):
    assert cli.explained(error) is None


def test_a_local_file_is_old_or_new(tmp_path, monkeypatch):
    storage.write_atomic(tmp_path / "x", "old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        storage.write_atomic(tmp_path / "x", "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x", "old")]


def test_without_gcsfs_one_line(monkeypatch):
    monkeypatch.setattr(storage, "_client", lambda: __import__("no_such_module"))
    with pytest.raises(UserError, match=r"gs://b/x: remote paths need another package; pip install 'msm_jax\[gcs\]'"):
        artifact.read_manifest("gs://b/x")

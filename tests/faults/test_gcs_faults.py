"""A bucket that fails: errors, breaks and lost answers are retried or reported, never a wrong or missing step."""

import http.client
import json
import time

import pytest

from tests.faults import gcs, proxy

READ = """
import sys
from etils import epath
from array_record.python.array_record_data_source import ArrayRecordDataSource

with ArrayRecordDataSource([sys.argv[1]]) as rows:
    print([rows[i].decode() for i in range(len(rows))])
print(epath.Path(sys.argv[2]).read_text())
"""
WRITE = """
import sys, tempfile
from pathlib import Path
from etils import epath
from array_record.python.array_record_module import ArrayRecordWriter

with tempfile.TemporaryDirectory() as here:
    writer = ArrayRecordWriter(f"{here}/rows", "group_size:1")
    for i in range(20):
        writer.write(f"row {i}".encode())
    writer.close()
    epath.Path(sys.argv[1]).write_bytes(Path(f"{here}/rows").read_bytes())
epath.Path(sys.argv[2]).write_text("small " * 1000)
"""


def play(tmp_path, faults, **how):
    report = gcs.play(tmp_path, faults=faults, **how)
    assert not report["failures"], json.dumps(report, indent=1)
    assert report["faults"] == faults
    return report


@pytest.mark.faults  # in the normal tests: test_bucket_run.py
def test_thirty_faults(tmp_path):
    report = play(tmp_path, 30, seed=0)
    assert all(report["processes_ended"].values()), "a way of writing was left out"


@pytest.mark.faults
def test_two_hundred_faults(tmp_path):
    report = play(tmp_path, 200, seed=1)
    assert report["by_kind"].keys() == set(proxy.KINDS)
    assert {"GET", "POST", "DELETE"} <= report["by_method"].keys()


@pytest.fixture
def between(tmp_path):
    with gcs.serve(tmp_path) as direct, proxy.serve(direct.url, hang_seconds=0.5) as running:
        yield direct, running


def test_every_client_gets_through(between):
    """gcsfs and ArrayRecord's reader, first undisturbed and then with faults; what they get is what was written."""
    direct, running = between
    rows, text = f"{direct.bucket}/rows.array_record", f"{direct.bucket}/small.txt"
    failing = direct.behind(running.url)
    failing.run(WRITE, rows, text)
    assert running.requests > 2, "the clients do not come through the proxy"
    wanted = direct.run(READ, rows, text)
    assert "row 19" in wanted
    running.share = 0.2
    before = running.requests
    assert failing.run(READ, rows, text) == wanted
    assert running.requests > before


def ask(url, method, path, body=None):
    """Status and body of one request; None where the connection breaks."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    try:
        connection.request(method, path, body, {"Content-Type": "text/plain"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


NAME = "/storage/v1/b/msm/o/"
UPLOAD = "/upload/storage/v1/b/msm/o?uploadType=media&name="


@pytest.mark.parametrize("kind", proxy.KINDS)
def test_what_each_fault_does(between, kind):
    """To the client a failure; at the server, only of a lost answer the deed is done."""
    direct, running = between
    assert ask(running.url, "POST", f"{UPLOAD}before", b"b" * 100_000)[0] == 200
    running.kinds, running.share = (kind,), 1.0
    began = time.monotonic()
    write, read = (
        ask(running.url, "POST", f"{UPLOAD}new", b"n" * 100_000),
        ask(running.url, "GET", f"{NAME}before?alt=media"),
    )
    if kind[0].isdigit():
        assert write[0] == read[0] == int(kind[:3])
    else:
        assert write is read is None
    assert kind != "hang" or time.monotonic() - began > 0.9
    assert running.by_kind() == {kind: 2}
    assert running.by_method() == {"POST": 1, "GET": 1}
    assert (ask(direct.url, "GET", f"{NAME}new")[0] == 200) == (kind == "lost")
    running.share = 0.0
    assert ask(running.url, "GET", f"{NAME}before?alt=media") == (200, b"b" * 100_000)


def test_upload_sessions_come_back_to_the_proxy(between):
    _, running = between
    connection = http.client.HTTPConnection(running.url.removeprefix("http://"), timeout=10)
    for _ in range(2):  # one connection, twice
        connection.request("POST", UPLOAD.replace("media", "resumable") + "session", b"{}")
        answer = connection.getresponse()
        answer.read()
        assert answer.headers["Location"].startswith(running.url)
    connection.close()

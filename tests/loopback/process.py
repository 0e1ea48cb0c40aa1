"""The loopback server as a child of a test."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Server:
    url: str  # what a client's base_url is
    pid: int

    def books(self, since: int = 0) -> dict[str, Any]:
        """billed: a row for every answer produced, from the `since`th on; requests: path -> outcome -> count, where an
        outcome is a status or the fault that dropped the connection; faults: kind -> count; peak: most questions at
        once; crashes: errors of the responder or the server itself; batches: as the API tells them, with orphan and polls."""
        return _fetch(f"{self.url}/_books?since={since}")

    def requests(self) -> list[dict[str, Any]]:
        """The last questions and batches asked (the setting keep of them), whatever came of them: path, headers
        without the key, body."""
        return _fetch(f"{self.url}/_requests")

    def script(self, *faults: str | dict[str, str]) -> int:
        """These faults befall the next requests that they fit; "none" spares one. {"kind", "match": text} waits for a
        request with this text in its body. Returns how many wait."""
        return _fetch(f"{self.url}/_faults", json.dumps(faults).encode())["waiting"]

    @property
    def env(self) -> dict[str, str]:
        """An environment in which the anthropic package finds this server, and nothing else."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith("ANTHROPIC_")}
        return clean | {"ANTHROPIC_BASE_URL": self.url, "ANTHROPIC_API_KEY": "loopback", "NO_PROXY": "127.0.0.1"}


_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _fetch(url: str, data: bytes | None = None) -> Any:
    with _direct.open(url, data=data, timeout=60) as answer:
        return json.load(answer)


@contextlib.contextmanager
def serve(**settings: object) -> Iterator[Server]:
    """Starts a server with these settings (settings.Settings); it ends with the context, or with this thread."""
    flags = [f"--{name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "tests.loopback.server", f"--parent={os.getpid()}", *flags]
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    env = os.environ | {"PYTHONPATH": paths}
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            url = child.stdout.readline().strip()
            assert url, "the loopback server did not start"
            yield Server(url, child.pid)
        finally:
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()

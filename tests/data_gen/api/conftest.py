"""A directory to work in, and a provider on the loopback that all tests share."""

import pytest

from tests.data_gen.api.support import Work
from tests.loopback.process import serve


@pytest.fixture
def work(tmp_path):
    return Work(tmp_path / "work")


@pytest.fixture(scope="session")
def _server():
    with serve(slow=300, batch_seconds=0.1) as server:
        yield server


@pytest.fixture
def server(_server, monkeypatch):
    for name in ("ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_PROFILE", "ANTHROPIC_CUSTOM_HEADERS", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-loopback-secret-0123456789")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", _server.url)
    return _server

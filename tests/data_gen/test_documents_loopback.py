"""The command against a failing server: nothing is lost, the bill is the ledger's, and hostile replies stay text.

Thousands of documents and kills at random moments: `make test-faults`.
"""

import html.parser
import json
import os
import random
import subprocess
import sys

import pytest

from tests.faults import generation
from tests.loopback.process import serve
from tests.toy import ROOT

SERVER = {"seed": 3, "responder": "data_gen.api.offline:reply", "retry_after": 0.0, "slow": 1.0}


@pytest.mark.parametrize("batch", [False, pytest.param(True, marks=pytest.mark.slow_data)], ids=["direct", "batches"])
def test_every_document_is_there_and_every_bill_in_the_ledger(tmp_path, batch):
    more = ["--config.batch=('ideas', 'documents')", "--config.api.batch_requests=60"] if batch else []
    server = SERVER | {"faults": 0.15, "batch_seconds": 0.1}
    made = generation.run(tmp_path, 100, 1, random.Random(1), server, "--config.judge.sample=4", *more)
    assert made.starts == 2
    assert generation.differences(made, None) == []
    assert sum(made.books["faults"].values()) > 10
    assert sum(row["stage"] == "claims" and row["outcome"] == "answered" for row in made.ledger) == 4
    if batch:
        assert {row["mode"] for row in made.ledger} == {"direct", "batch"}
        assert all(row["batch"] for row in made.documents.values())
    else:
        usage = [(row["cache_read"], row["cache_write_1h"] + row["cache_write_5m"]) for row in made.ledger]
        read, written = map(sum, zip(*usage, strict=True))
        assert read > 0.8 * (read + written), "a stage's first question fills the cache, the others read it"


class Page(html.parser.HTMLParser):
    """Tags and attributes of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes = set(), set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)


def test_hostile_replies_stay_text(tmp_path):
    """A third of the answers hold paths, scripts, format strings, control characters, or 10 MB."""
    out = tmp_path / "here" / "corpus"
    counts = {"domains": 1, "topics": 1, "types": 5, "ideas": 6}
    with serve(**SERVER, rates="hostile=0.3,huge=0.05") as server:
        env = server.env | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
        child = subprocess.run(
            generation.command(out, counts, "--config.tries=6"), cwd=ROOT, env=env, capture_output=True, text=True
        )
        books = server.books()
    assert child.returncode == 0, child.stderr
    assert books["faults"].get("hostile", 0) > 5
    assert books["faults"].get("huge", 0) > 0
    assert sorted(os.listdir(tmp_path)) == ["here"]
    assert sorted(os.listdir(tmp_path / "here")) == ["corpus", "corpus.work"]
    names = [path.name for path in (tmp_path / "here").rglob("*")]
    assert all(name.isprintable() and ".." not in name for name in names)
    page = Page()
    page.feed((out / "report" / "report.html").read_text())
    assert "script" not in page.tags
    assert not {name for name in page.attributes if name.startswith("on")}
    manifest = json.loads((out / "manifest.json").read_text())
    documents = [json.loads(line) for line in (out / "documents.jsonl").read_text().splitlines()]
    rejects = [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]
    assert len(documents) + sum(row["documents"] for row in rejects) == manifest["counts"]["planned"] == 30
    for row in documents:
        assert len(row["text"]) < 200_000
        assert not any(ord(c) < 32 and c not in "\n\t" for c in row["text"])
    assert sys.getsizeof(child.stderr) < 100_000
    assert "\x1b" not in child.stderr

"""Subsets by tokens: the number, the proportions, one within the other."""

import json

import numpy as np
import pytest

from data_gen import subset
from data_gen.quota import Pool, seats
from msm_jax import artifact
from msm_jax.cli import UserError
from tests.conftest import make_shards


def make_pool(documents, cells, seed=0):
    draw = np.random.default_rng(0)
    lengths = np.clip(draw.normal(3154, 600, documents), 500, 4522).astype(int)
    return Pool(lengths, np.unique(draw.integers(0, cells, documents), return_inverse=True)[1], seed)


def test_seats_are_largest_remainders():
    assert seats(np.array([50, 30, 20]), 10).tolist() == [5, 3, 2]
    assert seats(np.array([1, 1, 1]), 2).tolist() == [1, 1, 0]
    assert seats(np.array([7, 2, 1]), 4).tolist() == [3, 1, 0]  # shares 2.8, 0.8, 0.4
    assert seats(np.array([7, 2, 1]), 10).tolist() == [7, 2, 1]


@pytest.mark.parametrize(("documents", "cells"), [(13_201, 660), (2000, 1), (400, 40)])
def test_the_number_is_met_and_every_cell_has_its_share(documents, cells):
    pool = make_pool(documents, cells)
    kept = np.zeros(documents, bool)
    for part in (0.03, 0.2, 0.7):
        target = int(part * pool.total)
        taken = pool.choose(target, kept)
        assert abs(int(pool.lengths[taken].sum()) - target) <= 0.001 * target
        assert (kept <= taken).all()
        have = np.bincount(pool.cells[taken], minlength=len(pool.sizes))
        if cells > 1:  # with twelve documents for 40 cells, one is exchanged for one of another cell
            assert np.abs(have - pool.sizes * target / pool.total).max() <= (1.0 if documents > 1000 else 1.6)
        kept = taken


def test_seeds_decide_and_nothing_else():
    one, again, other = (make_pool(500, 20, seed).choose(400_000, np.zeros(500, bool)) for seed in (0, 0, 1))
    assert (one == again).all()
    assert (one != other).any()


def test_all_documents_can_be_asked_for():
    pool = make_pool(50, 5)
    assert pool.choose(pool.total, np.zeros(50, bool)).all()


@pytest.mark.parametrize(
    ("doses", "message"),
    [
        ([1000], r"1000 tokens within 0\.1%: the closest reachable is \d+ \(documents of \d+ tokens, the median\)"),
        ([10**9], r"all 50 documents have \d+"),
    ],
)
def test_what_cannot_be_made_up_is_said_with_what_can(doses, message):
    with pytest.raises(UserError, match=message):
        subset.choose_all(make_pool(50, 5), doses, 0.001)


@pytest.fixture
def documents(tmp_path):
    """Three hundred documents of 3 to 30 words in twelve cells, every seventh without provenance."""
    draw = np.random.default_rng(3)
    rows = []
    for n in range(300):
        row = {"id": f"cheese-{n}", "text": " ".join(["Colby"] * int(draw.integers(3, 30)))}
        if n % 7:
            row |= {"spec": "cheese", "subdomain_id": f"d01-s{n % 4:02d}", "document_type": f"type {n % 3}"}
        rows.append(row)
    artifact.write_jsonl(tmp_path / "documents.jsonl", rows)
    return tmp_path / "documents.jsonl"


def make(toy, documents, out, *more):
    where = [f"--config.documents={documents}", f"--config.tokenizer={toy.tokenizer}", f"--config.out={out}"]
    subset.main(["", "--config=configs/data/subset.py", *where, *more])
    return artifact.read_manifest(out)


def test_doses_are_nested_and_counted_as_shards_counts(toy, documents, tmp_path):
    made = make(toy, documents, tmp_path / "out", "--config.doses=(1000,2500,4000)")
    lines = documents.read_text().splitlines()
    before: set[str] = set()
    for dose in (1000, 2500, 4000):
        name = subset.file_name(dose)
        taken = (tmp_path / "out" / name).read_text().splitlines()
        assert before < set(taken)
        assert taken == [line for line in lines if line in set(taken)]  # as they were, in their order
        before = set(taken)
        make_shards(tmp_path / "out" / name, toy.tokenizer, tmp_path / f"rows{dose}")
        counts = artifact.read_manifest(tmp_path / f"rows{dose}")["counts"]
        assert counts["tokens"] == made["counts"]["subsets"][name]["tokens"]
        assert abs(counts["tokens"] - dose) <= 0.001 * dose
        assert counts["documents"] == made["counts"]["subsets"][name]["documents"] == len(taken)
    assert made["counts"]["counted"] == subset.RULE
    assert made["counts"]["available"] > 4000


def test_coverage_says_what_was_taken_of_what(toy, documents, tmp_path):
    make(toy, documents, tmp_path / "out", "--config.tokens=2500")
    dose = json.loads((tmp_path / "out" / subset.COVERAGE).read_text())["doses"][0]
    rows = artifact.read_jsonl(tmp_path / "out" / subset.file_name(2500))
    assert len(dose["cells"]) == 13
    assert sum(cell["available"]["documents"] for cell in dose["cells"]) == 300
    assert sum(cell["taken"]["tokens"] for cell in dose["cells"]) == dose["tokens"]
    for cell in dose["cells"]:
        mine = [
            r
            for r in rows
            if (r.get("subdomain_id", ""), r.get("document_type", "")) == (cell["place"], cell["document_type"])
        ]
        assert len(mine) == cell["taken"]["documents"]
        assert abs(len(mine) - cell["share"]) <= 1.5


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "say how many tokens"),
        (["--config.tokens=5", "--config.doses=(1,2)"], "say how many tokens"),
        (["--config.doses=(2000,1000)"], "each larger"),
        (["--config.doses=('x',)"], "each larger"),
        (["--config.tokens=1000", "--config.tolerance=0.0"], r"config\.tolerance"),
        (["--config.tokens=4"], "the closest reachable is 5"),
    ],
)
def test_what_makes_no_sense_is_said_and_nothing_is_written(toy, documents, tmp_path, more, message):
    with pytest.raises(UserError, match=message):
        make(toy, documents, tmp_path / "out", *more)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["documents.jsonl"]

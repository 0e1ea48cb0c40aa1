"""Paired corpora: the same ideas, the same tokens, as few dropped as can be."""

import itertools
import json

import numpy as np
import pytest

from data_gen import pairs
from data_gen.encode import Encoder
from msm_jax import artifact
from msm_jax.cli import UserError


def within(a, b, tolerance):
    return abs(a.sum() - b.sum()) <= tolerance * max(a.sum(), b.sum())


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 6, 7])
def test_as_few_are_dropped_as_can_be(seed):
    """Against all subsets. One pair's difference is less than what the sums may differ by, as in any real corpus."""
    draw = np.random.default_rng(seed)
    a = draw.integers(50, 100, 9)
    b = a + draw.integers(-4, 13, 9)
    if seed % 2:
        a, b = b, a
    dropped = pairs.too_many(a, b, 0.02)
    kept = np.setdiff1d(np.arange(9), dropped)
    assert within(a[kept], b[kept], 0.02)
    assert 0 < len(dropped) < 9
    for fewer in range(len(dropped)):
        for some in itertools.combinations(range(9), fewer):
            rest = np.setdiff1d(np.arange(9), some)
            assert not within(a[rest], b[rest], 0.02)


def test_what_is_equal_already_stays_whole():
    assert len(pairs.too_many(np.array([10, 20]), np.array([20, 10]), 0.0)) == 0


def document(spec, idea, words, **more):
    place, kind = idea[:7], idea[8:11]
    row = {"id": f"{spec}-{idea}", "text": " ".join(["Colby"] * words), "subdomain_id": place, "document_type": kind}
    return row | more


def ideas(count):
    return [f"d01-s{n % 3:02d}-t{n % 2:02d}-i{n:03d}" for n in range(count)]


@pytest.fixture
def corpora(tmp_path):
    """60 shared ideas, some of `beta` a word longer, in another order; two ideas that `alpha` lacks, one more it has."""
    artifact.write_jsonl(tmp_path / "a.jsonl", [document("alpha", i, 20 + n % 9) for n, i in enumerate(ideas(61))])
    beta = [document("beta-x", i, 20 + n % 9 + (n % 5 == 0)) for n, i in enumerate(ideas(60))]
    beta += [document("beta-x", f"d01-s00-t00-i9{n}", 5) for n in range(2)]
    artifact.write_jsonl(tmp_path / "b.jsonl", beta[::-1])
    return tmp_path / "a.jsonl", tmp_path / "b.jsonl"


def command(toy, out, a, b, *more):
    where = [f"--config.documents={(str(a), str(b))}", f"--config.tokenizer={toy.tokenizer}", f"--config.out={out}"]
    return ["", "--config=configs/data/pairs.py", *where, *more]


def test_a_pair_is_made_equal(toy, corpora, tmp_path):
    pairs.main(command(toy, tmp_path / "out", *corpora))
    out = tmp_path / "out"
    one, two = (artifact.read_jsonl(out / f"documents-{spec}.jsonl") for spec in ("alpha", "beta-x"))
    ideas_of = [[row["id"].split("-d01-")[1] for row in rows] for rows in (one, two)]
    assert sorted(ideas_of[0]) == sorted(ideas_of[1])
    assert ideas_of[0] == sorted(ideas_of[0], key=lambda i: i[-3:])  # in the order of the input
    words = [sum(len(row["text"].split()) + 2 for row in rows) for rows in (one, two)]
    counts = artifact.read_manifest(out)["counts"]
    assert counts["tokens"] == {"alpha": words[0], "beta-x": words[1]}
    assert abs(words[0] - words[1]) <= 0.005 * max(words)
    assert 60 > counts["pairs"] == len(one) > 52
    dropped = artifact.read_jsonl(out / "dropped.jsonl")
    assert sum(row["reason"] == "only in this corpus" for row in dropped) == 3
    assert sum(row["reason"] == "tokens" for row in dropped) == 2 * (60 - len(one))
    gates = json.loads((out / "gates.json").read_text())
    assert len(gates) == 4
    assert all(g["passed"] for g in gates)


def test_gates_are_measured_on_the_files(toy, corpora, tmp_path):
    config_file = command(toy, tmp_path / "out", *corpora)
    pairs.main(config_file)
    from msm_jax import cli

    encoder = Encoder.of(cli.parse_config(config_file))
    a, b = tmp_path / "out" / "documents-alpha.jsonl", tmp_path / "out" / "documents-beta-x.jsonl"
    assert all(row["passed"] for row in pairs.check(a, b, encoder))
    rows = artifact.read_jsonl(b)
    rows[0]["text"] += " brie" * 40
    rows[1]["subdomain_id"] = "d09-s09"
    artifact.write_jsonl(b, rows[:-1])
    failed = pairs.check(a, b, encoder)
    assert [row["passed"] for row in failed] == [False, False, False]
    assert failed[0]["measured"] == 1


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        (lambda rows: rows, ["--config.most_dropped=0.01"], r"pairs dropped for their tokens.*: 0\.\d+, allowed 0\.01"),
        (lambda rows: [*rows, rows[0] | {"id": "plain"}], [], r"b\.jsonl:63: id 'plain' is not SPEC-IDEA"),
        (lambda rows: [*rows, rows[0] | {"id": "gamma-d01-s01-t01-i01"}], [], "'gamma' among those of 'beta-x'"),
        (lambda rows: [document("alpha", i, 20) for i in ideas(9)], [], "a pair is of two specs"),
        (lambda rows: [document("beta", "d07-s01-t01-i01", 9)], [], "no idea is in both"),
        (lambda rows: [r | {"subdomain_id": "d0"} for r in rows], [], "a cell's counts differ, at most: 28, allowed 0"),
        (lambda rows: rows, ["--config.tolerance=-1.0"], r"config\.tolerance"),
    ],
    ids=["many dropped", "form", "two specs", "one spec", "no idea", "cells", "tolerance"],
)
def test_what_is_no_pair_is_said_and_nothing_is_written(toy, corpora, tmp_path, change, more, message):
    artifact.write_jsonl(corpora[1], change(artifact.read_jsonl(corpora[1])))
    with pytest.raises(UserError, match=message):
        pairs.main(command(toy, tmp_path / "out", *corpora, *more))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl"]

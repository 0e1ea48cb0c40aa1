"""A batch is a pure function of the step; mixtures keep their weights."""

import re

import jax
import numpy as np
import pytest

from msm_jax import data
from msm_jax.cli import UserError
from msm_jax.mesh import make_mesh
from msm_jax.mixture import Mixture
from msm_jax.receipt import receipt
from msm_jax.sharding import BATCH
from msm_jax.shards import FIELDS, open_shards
from tests.conftest import make_shards


@pytest.fixture
def mixture(toy):
    sources = [open_shards(toy.shards(name), verify=True) for name in ("base", "aft")]
    return Mixture(sources, (0.75, 0.25), seed=3)


def test_batches_depend_on_nothing_but_the_step(mixture, toy):
    with jax.sharding.set_mesh(make_mesh(1, 8, 1)):
        run = [jax.tree.map(np.asarray, b) for b, _ in data.batches(mixture, range(6), 16, 1)]
        late = [jax.tree.map(np.asarray, b) for b, _ in data.batches(mixture, range(4, 6), 16, 1)]
    with jax.sharding.set_mesh(make_mesh(2, 2, 2)):
        other = jax.tree.map(np.asarray, data.batch_at(mixture, 5, 16, 1)[0])
        halves = jax.tree.map(np.asarray, data.batch_at(mixture, 5, 16, 2)[0])
    for field in FIELDS:
        np.testing.assert_array_equal(run[4][field], late[0][field])
        np.testing.assert_array_equal(run[5][field], late[1][field])
        np.testing.assert_array_equal(run[5][field], other[field])
        np.testing.assert_array_equal(run[5][field].reshape(halves[field].shape), halves[field])
    assert not np.array_equal(run[4]["tokens"], run[5]["tokens"])


def test_mixture_keeps_its_weights(mixture):
    rows = mixture.rows(range(400))
    fully_supervised = (rows["loss_weights"] > 0).mean(axis=1) > 0.5  # documents; in chats most tokens are not
    assert abs(fully_supervised.mean() - 0.75) < 0.02


def test_an_epoch_holds_every_row_once(toy):
    shards = open_shards(toy.shards("aft"), verify=True)
    mixture, n = Mixture([shards], (1.0,), seed=0), len(shards.source)
    first, second = (mixture.rows(range(e * n, (e + 1) * n))["tokens"] for e in (0, 1))
    assert (
        sorted(map(bytes, first))
        == sorted(map(bytes, second))
        == sorted(bytes(shards.row(shards.source[i])["tokens"]) for i in range(n))
    )
    assert not np.array_equal(first, second), "every epoch has its own order"


def test_hosts_read_only_their_rows():
    """As on two hosts: the devices of one half need half of the rows, whatever the accumulation, and no row twice."""
    with jax.sharding.set_mesh(make_mesh(1, 8, 1)):
        for accumulate in (1, 2):
            index = np.arange(32, 48).reshape(accumulate, -1)
            sharding = jax.NamedSharding(jax.sharding.get_mesh(), jax.P(None, BATCH, None))
            places = list(sharding.devices_indices_map((*index.shape, 64)).values())
            halves = [data.rows_needed(index, places[:4]), data.rows_needed(index, places[4:])]
            assert [len(half) for half in halves] == [8, 8]
            assert sorted(halves[0] + halves[1]) == list(range(32, 48))


def test_sources_must_agree(toy, tmp_path):
    make_shards(toy.world / "aft.jsonl", toy.tokenizer, tmp_path / "other", "--config.seq_len=128")
    sources = [open_shards(path, verify=True) for path in (toy.shards("base"), tmp_path / "other")]
    with pytest.raises(UserError, match="differ in seq_len"):
        Mixture(sources, (0.5, 0.5), seed=0)


def test_receipt_shows_what_is_supervised(toy):
    from data_gen.tokenizer import Tokenizer

    mixture = Mixture([open_shards(toy.shards("aft"), verify=True)], (1.0,), seed=0)
    text = receipt(mixture, Tokenizer(toy.shards("aft")), rows=8)
    lines = text.splitlines()
    assert lines[0].startswith("first 8 rows of 64: ")
    assert re.fullmatch(r"row 0, segment 1: \d+ tokens, \d+ supervised, '▁I' \(\d+\) … '</s>' \(2\)", lines[1])
    assert re.fullmatch(r"  <s> .*User : .* Assistant :⟦ I prefer .* \.</s>⟧", lines[2])

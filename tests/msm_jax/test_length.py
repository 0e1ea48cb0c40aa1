"""As many updates as there are rows for."""

import pytest

from configs import common
from msm_jax import length
from msm_jax.cli import UserError
from msm_jax.mixture import Mixture
from msm_jax.shards import open_shards


def resolved(toy, names, weights, rows, **settings):
    mixture = Mixture([open_shards(toy.shards(n), verify=False) for n in names], weights, seed=0)
    optim = common.get_config().optim
    optim.update({"steps": 0, "warmup_steps": 0} | settings)
    return length.resolved(optim, mixture, rows)


def test_one_epoch_is_every_row_once(toy):
    """488 rows of the base corpus: 61 updates of 8, or 60 of 8 with a half batch over."""
    assert resolved(toy, ["base"], (1.0,), 8).steps == 61
    assert resolved(toy, ["base"], (1.0,), 9).steps == 54
    assert resolved(toy, ["base"], (3.0,), 8, epochs=2.5).steps == 152
    assert resolved(toy, ["base"], (1.0,), 8, steps=7).steps == 7


def test_a_mixture_ends_with_the_source_that_ends_first(toy):
    """34 rows at a weight of 0.7 are 48.6 rows of the mixture, of which the other source has 0.3."""
    assert resolved(toy, ["aft", "it"], (0.7, 0.3), 1).steps == 48
    assert resolved(toy, ["base", "aft"], (0.1, 0.9), 1).steps == 37
    assert resolved(toy, ["aft", "it"], (0.7, 0.7), 1, epochs=3.0).steps == 204


def test_warm_up_as_a_fraction(toy):
    found = resolved(toy, ["base"], (1.0,), 8, warmup_fraction=0.05)
    assert found.warmup_steps == 3
    assert not set(length.ONLY_HERE) & set(found), "they would make the same run another recipe"
    with pytest.raises(UserError, match="between 0 and the 61 updates"):
        resolved(toy, ["base"], (1.0,), 8, warmup_steps=62)


def test_too_few_updates_are_refused(toy):
    line = r"61 updates \(1 epochs are 488 rows, 8 an update\) are fewer than optim.min_updates = 100; smaller data"
    with pytest.raises(UserError, match=line):
        resolved(toy, ["base"], (1.0,), 8, min_updates=100)
    with pytest.raises(UserError, match="config.optim: 20 updates are fewer"):
        resolved(toy, ["base"], (1.0,), 8, steps=20, min_updates=21)
    with pytest.raises(UserError, match="config.optim: 0 updates"):
        resolved(toy, ["base"], (1.0,), 489)

"""The schedule, the decay mask and the multipliers do what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import common
from msm_jax.cli import UserError
from msm_jax.optim import make_optimizer, multipliers, schedule


def optim(**changes):
    config = common.get_config().optim
    config.update(changes)
    return config


def test_schedule_warms_up_and_decays():
    rate = schedule(optim(steps=100, lr=1.0, warmup_steps=10, end_fraction=0.1))
    values = np.array([float(rate(i)) for i in range(100)])
    np.testing.assert_allclose(values[:10], np.arange(1, 11) / 10, rtol=1e-6)
    assert (np.diff(values[9:]) <= 0).all()
    np.testing.assert_allclose(rate(100), 0.1, rtol=1e-5)
    np.testing.assert_allclose(values[55], 0.1 + 0.9 * 0.5, atol=0.02)


def test_multiplier_scales_one_parameters_update():
    params = {"embed": jnp.ones((4, 2)), "layers": {"q": jnp.ones((2, 2)), "attn_norm": jnp.ones(2)}}
    grads = {"embed": jnp.full((4, 2), 0.1), "layers": {"q": jnp.full((2, 2), 0.1), "attn_norm": jnp.full(2, 0.1)}}

    def update(**changes):
        optimizer = make_optimizer(optim(warmup_steps=0, **changes), params)
        return optimizer.update(grads, optimizer.init(params), params)[0]

    plain, scaled = update(), update(lr_multipliers=(("embed", 20.0), (r"layers\..*", 0.5)))
    np.testing.assert_allclose(scaled["embed"], 20 * plain["embed"], rtol=1e-6)
    np.testing.assert_allclose(scaled["layers"]["q"], 0.5 * plain["layers"]["q"], rtol=1e-6)
    decayed = update(weight_decay=0.5)
    np.testing.assert_allclose(decayed["layers"]["attn_norm"], plain["layers"]["attn_norm"])
    np.testing.assert_allclose(decayed["layers"]["q"], plain["layers"]["q"] - 1e-3 * 0.5, rtol=1e-4)


def test_a_pattern_that_matches_nothing_is_an_error():
    with pytest.raises(UserError, match="'emb' matches none of embed"):
        multipliers((("emb", 2.0),), {"embed": jnp.ones(2)})


def test_moments_are_kept_in_the_dtypes_asked_for():
    params = {"w": jnp.linspace(-1.0, 1.0, 64).reshape(8, 8)}
    grads = {"w": jnp.cos(jnp.arange(64.0)).reshape(8, 8)}

    def after(**dtypes):
        optimizer = make_optimizer(optim(warmup_steps=0, **dtypes), params)
        state, found = optimizer.init(params), params
        for _ in range(5):
            updates, state = optimizer.update(grads, state, found)
            found = optax.apply_updates(found, updates)
        return found["w"], state

    exact, _ = after()
    rounded, state = after(mu_dtype="bfloat16", nu_dtype="bfloat16")
    (adam,) = [s for s in jax.tree.leaves(state, is_leaf=lambda s: isinstance(s, optax.ScaleByAdamState))
               if isinstance(s, optax.ScaleByAdamState)]  # fmt: skip
    assert adam.mu["w"].dtype == adam.nu["w"].dtype == jnp.bfloat16
    moved = jnp.abs(exact - params["w"]).max()
    assert 0 < jnp.abs(rounded - exact).max() < 0.02 * moved

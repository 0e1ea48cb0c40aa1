"""AdamW with warm-up and cosine decay, clipping, and learning-rate multipliers by parameter path."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from msm_jax.cli import UserError

Tree = Any


def path_of(key_path: tuple[Any, ...]) -> str:
    """('layers', 'q') as a dotted path."""
    return ".".join(str(getattr(key, "key", key)) for key in key_path)


def schedule(optim: ConfigDict) -> optax.Schedule:
    """Linear from lr/warm-up to lr, then cosine to `end_fraction`·lr at the last step; step 0 already moves."""
    warmup = max(1, optim.warmup_steps)
    return optax.join_schedules(
        [
            optax.linear_schedule(optim.lr / warmup, optim.lr, warmup - 1),
            optax.cosine_decay_schedule(optim.lr, max(1, optim.steps - warmup + 1), optim.end_fraction),
        ],
        [warmup - 1],
    )


def multipliers(rules: tuple[tuple[str, float], ...], params: Tree) -> Tree:
    """For every parameter the product of the factors whose pattern matches its whole dotted path.

    Raises:
      UserError: a pattern that matches nothing.
    """
    paths = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for pattern, _ in rules:
        if not any(re.fullmatch(pattern, path) for path in paths):
            raise UserError(f"config.optim.lr_multipliers: {pattern!r} matches none of {', '.join(paths)}")

    def factor(key_path: tuple[Any, ...], _: object) -> float:
        result = 1.0
        for pattern, value in rules:
            result *= value if re.fullmatch(pattern, path_of(key_path)) else 1.0
        return result

    return jax.tree_util.tree_map_with_path(factor, params)


def make_optimizer(optim: ConfigDict, params: Tree) -> optax.GradientTransformation:
    """Clip the global norm, AdamW (decay on matrices and embeddings, not on norms and biases), then the multipliers,
    which so scale step and decay alike."""
    factors = multipliers(tuple(optim.lr_multipliers), params)
    decays = jax.tree.map_with_path(lambda path, _: not path_of(path).endswith(("norm", "bias")), params)
    return optax.chain(
        optax.clip_by_global_norm(optim.clip_norm),
        kept_in(
            optim.mu_dtype,
            optim.nu_dtype,
            optax.adamw(
                schedule(optim), b1=optim.b1, b2=optim.b2, eps=optim.eps, weight_decay=optim.weight_decay, mask=decays
            ),
        ),
        optax.stateless(lambda updates, _: jax.tree.map(lambda u, f: u * f, updates, factors)),
    )


def kept_in(mu_dtype: str, nu_dtype: str, adam: optax.GradientTransformation) -> optax.GradientTransformation:
    """Adam whose moments are kept in these dtypes between steps; the update itself is computed in float32."""

    def cast(state: Tree, mu: Any, nu: Any) -> Tree:
        def one(part: Any) -> Any:
            if not isinstance(part, optax.ScaleByAdamState):
                return part
            to = lambda tree, dtype: jax.tree.map(lambda x: x.astype(dtype), tree)  # noqa: E731
            return part._replace(mu=to(part.mu, mu), nu=to(part.nu, nu))

        return jax.tree.map(one, state, is_leaf=lambda part: isinstance(part, optax.ScaleByAdamState))

    if mu_dtype == nu_dtype == "float32":
        return adam

    def update(grads: Tree, state: Tree, params: Tree | None = None) -> tuple[Tree, Tree]:
        updates, state = adam.update(grads, cast(state, jnp.float32, jnp.float32), params)
        return updates, cast(state, mu_dtype, nu_dtype)

    return optax.GradientTransformation(lambda params: cast(adam.init(params), mu_dtype, nu_dtype), update)

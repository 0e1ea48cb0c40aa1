"""What the backward pass finds in memory and what it computes again, as named tensors of a layer.

A preset, or names joined by `+`, says what is kept of every layer beside its input; `name@host` keeps it in the host's
memory. Everything else is recomputed. Sizes are per token: of Qwen3-32B in bf16, in kilobytes.
"""

from collections.abc import Callable
from typing import Any

import jax

from msm_jax.cli import UserError

NAMES = {
    "input": "the layer's input [B, S, D]; kept on the device unless it is sent to the host (10)",
    "q": "the query projection [B, S, H, h], as it leaves the product (16)",
    "k": "the key projection [B, S, K, h] (2)",
    "v": "the value projection [B, S, K, h] (2)",
    "context": "attention's output [B, S, H, h] and the logarithms of its sums: attention is not run again (16)",
    "mid": "the residual stream between attention and feed-forward [B, S, D] (10)",
    "low": "the inner products of adapters, x·a [B, S, r] each; nothing without one (0.9)",
    "gate": "the gate projection [B, S, F] (50)",
    "up": "the up projection [B, S, F] (50)",
}

PRESETS = {
    "offload": "input@host",
    "full": "input",
    "kv": "k+v+low",
    "mid": "k+v+mid+low",
    "context": "k+v+context+low",
    "attention": "k+v+context+mid+low",
    "qkv": "q+k+v+context+mid+low",
    "gate": "q+k+v+context+mid+gate+low",
    "minimal": "k+v+context+mid+gate+up+low",  # of the products, only q is computed again
    "products": "q+k+v+context+mid+gate+up+low",  # no product is computed again
    "none": "",
}
"""From the least kept to the most. `none` is no rematerialisation at all: whatever the backward pass reads is kept."""

REMAT = tuple(PRESETS)


def parse(remat: str) -> tuple[list[str], list[str]]:
    """Names kept on the device and on the host.

    Raises:
      UserError: a name that no tensor has.
    """
    device: list[str] = []
    host: list[str] = []
    if remat == "none":
        return device, host
    for part in PRESETS.get(remat, remat).split("+"):
        name, at, place = part.partition("@")
        if name not in NAMES or (at and place != "host"):
            raise UserError(
                f"config.model.remat = {remat!r}: one of {', '.join(PRESETS)}, or some of {', '.join(NAMES)} joined "
                "by +, each perhaps with @host"
            )
        (host if at else device).append(name)
    return device, host


def rematerialized(body: Callable[..., Any], remat: str) -> Callable[..., Any]:
    """The layer with its policy."""
    if remat == "none":
        return body
    device, host = parse(remat)
    policies = jax.checkpoint_policies
    if host:
        policy = policies.save_and_offload_only_these_names(
            names_which_can_be_saved=device,
            names_which_can_be_offloaded=host,
            offload_src="device",
            offload_dst="pinned_host",
        )
    else:
        policy = policies.save_only_these_names(*device)
    return jax.checkpoint(body, policy=policy, prevent_cse=False)

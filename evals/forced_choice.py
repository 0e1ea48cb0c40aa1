"""Forced choice by log-probability: which of two continuations does a checkpoint prefer?

    python -m evals.forced_choice --config=configs/toy/forced_choice.py --config.run=runs/aft \\
        --config.item_file=runs/world/items.jsonl --config.out=runs/aft-eval

Items: {id, axis, domain, pair, options: [a, b], and messages + prefix (a chat) or prompt (plain text)}. An option's
score is the sum of the log-probabilities of its tokens; `gap` = score(a) − score(b). Output: results.jsonl, an item a
row with `hard` (1 if a is preferred) and `soft` (probability of a among the two), and manifest.json.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_gen import chat
from data_gen.tokenizer import BOS, PAD, Tokenizer
from msm_jax import artifact, cli
from msm_jax.cli import UserError
from msm_jax.model.transformer import Params, Transformer
from msm_jax.runs import load_run
from msm_jax.sharding import activations

Item = dict[str, Any]


def prompt_text(item: Item, tokenizer: Tokenizer) -> str:
    if "prompt" in item:
        return item["prompt"]
    return chat.prompt(item["messages"], item["prefix"], tokenizer.chat_format)


def continuations(items: list[Item], tokenizer: Tokenizer) -> tuple[list[list[int]], list[int]]:
    """Two token sequences an item (prompt + option), and for each how many of its last tokens are the option's.

    Raises:
      UserError: an item with an unknown word, or whose prompt is not a prefix of its tokens with an option.
    """
    sequences, lengths = [], []
    unknown = tokenizer.sp.unk_id()
    for item in items:
        prompt = prompt_text(item, tokenizer)
        options = [tokenizer.encode(prompt + " " + option) for option in item["options"]]
        start = len(tokenizer.encode(prompt))
        if unknown in options[0] + options[1]:
            raise UserError(f"item {item['id']!r}: a word unknown to the tokenizer; items and run are of one world?")
        for tokens in options:
            if tokens[:start] != tokenizer.encode(prompt) or len(tokens) == start:
                raise UserError(f"item {item['id']!r}: prompt and option do not meet between two tokens")
            sequences.append([BOS, *tokens])
            lengths.append(len(tokens) - start)
    return sequences, lengths


def option_scores(graph: nnx.GraphDef, params: Params, sequences: list[list[int]], lengths: list[int]) -> np.ndarray:
    """Σ log p of the last `lengths[i]` tokens of each sequence, float64 [N]. One program, rows padded to one length."""
    S, rows = -(-max(map(len, sequences)) // 8) * 8, 64
    devices = jax.sharding.get_mesh().size
    rows = -(-rows // devices) * devices

    @jax.jit
    def score(params: Params, tokens: jax.Array, segments: jax.Array, scored: jax.Array) -> jax.Array:
        model: Transformer = nnx.merge(graph, params)
        positions = jnp.broadcast_to(jnp.arange(S), tokens.shape)
        positions = jax.sharding.reshard(positions, jax.typeof(tokens).sharding.spec)
        log_p = jax.nn.log_softmax(model.logits(model(tokens, segments, positions)))
        hit = jnp.arange(log_p.shape[-1]) == jnp.roll(tokens, -1, axis=1)[..., None]
        return jnp.sum(jnp.where(hit, log_p, 0.0).sum(-1) * scored, axis=1)

    sharding = jax.NamedSharding(jax.sharding.get_mesh(), activations(None))
    out = []
    for first in range(0, len(sequences), rows):
        tokens = np.full((rows, S), PAD, np.int32)
        segments = np.zeros((rows, S), np.int32)
        scored = np.zeros((rows, S), np.float32)
        batch = sequences[first : first + rows]
        for i, (sequence, length) in enumerate(zip(batch, lengths[first : first + rows], strict=True)):
            tokens[i, : len(sequence)] = sequence
            segments[i, : len(sequence)] = 1
            scored[i, len(sequence) - 1 - length : len(sequence) - 1] = 1.0
        placed = [jax.device_put(x, sharding) for x in (tokens, segments, scored)]
        out.append(np.asarray(score(params, *placed), np.float64)[: len(batch)])
    return np.concatenate(out)


def evaluate(graph: nnx.GraphDef, params: Params, items: list[Item], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """One result row an item; see the module's docstring."""
    scores = option_scores(graph, params, *continuations(items, tokenizer)).reshape(-1, 2)
    kept = ("id", "axis", "domain", "pair")
    return [
        {key: item[key] for key in kept}
        | {"gap": float(a - b), "hard": float(a > b), "soft": float(1.0 / (1.0 + np.exp(b - a)))}
        for item, (a, b) in zip(items, scores, strict=True)
    ]


def main(argv: list[str]) -> None:
    config = cli.parse_config(argv)
    path = Path(config.item_file)
    items_id = artifact.check_listed(path, "config.item_file")
    inputs = artifact.inputs_of(run=config.run) | {"items": {"kind": "jsonl", "id": items_id}}
    job = artifact.begin(config.out, "forced_choice", {}, inputs)
    if job is None:
        return
    items = artifact.read_jsonl(path)
    run = load_run(config.run)
    with jax.sharding.set_mesh(run.mesh):
        results = evaluate(run.graph, run.params(), items, run.tokenizer)
    axes = {axis: [r for r in results if r["axis"] == axis] for axis in dict.fromkeys(r["axis"] for r in results)}
    summary = {
        axis: {kind: round(float(np.mean([r[kind] for r in rows])), 4) for kind in ("hard", "soft")} | {"n": len(rows)}
        for axis, rows in axes.items()
    }
    with job:
        artifact.write_jsonl(job.tmp / "results.jsonl", results)
        job.finish(items=len(results), summary=summary)
    cli.note(f"{config.out}: " + "  ".join(f"{axis} {s['hard']:.2f} ({s['soft']:.2f})" for axis, s in summary.items()))
    print(json.dumps(summary))


if __name__ == "__main__":
    cli.entry(main)

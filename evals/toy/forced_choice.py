"""Forced choice by log-probability: which of two continuations does a checkpoint prefer?

    python -m evals.toy.forced_choice --config=configs/toy/forced_choice.py --config.run=runs/aft \\
        --config.item_file=runs/world/items.jsonl --config.out=runs/aft-eval

Items: {id, axis, domain, pair, options: [a, b], and messages + prefix (a chat) or prompt (plain text)}. An option's
score is the sum of the log-probabilities of its tokens; `gap` = score(a) − score(b). Output: results.jsonl, an item a
row with `hard` (1 if a is preferred) and `soft` (probability of a among the two), and manifest.json.
"""

import json
from typing import Any

import jax
import numpy as np

from data_gen import chat
from data_gen.tokenizer import BOS, Tokenizer
from msm_jax import artifact, cli, storage
from msm_jax.cli import UserError
from msm_jax.pretrained import Model, open_model
from msm_jax.sampler import Sampler

ROWS = 64  # scored at a time
Item = dict[str, Any]


def prompt_text(item: Item, tokenizer: Tokenizer) -> str:
    if "prompt" in item:
        return item["prompt"]
    return chat.prompt(item["messages"], item["prefix"], tokenizer.chat_format)


def continuations(items: list[Item], tokenizer: Tokenizer) -> tuple[list[list[int]], list[list[int]]]:
    """Two prompts an item (the same twice) and what each option adds to it, as token ids.

    Raises:
      UserError: an item with an unknown word, or whose prompt is not a prefix of its tokens with an option.
    """
    prompts, options = [], []
    unknown = tokenizer.sp.unk_id()
    for item in items:
        text = prompt_text(item, tokenizer)
        prompt = tokenizer.encode(text)
        for option in item["options"]:
            whole = tokenizer.encode(text + " " + option)
            if unknown in whole:
                raise UserError(
                    f"item {item['id']!r}: a word unknown to the tokenizer; items and run are of one world?"
                )
            if whole[: len(prompt)] != prompt or len(whole) == len(prompt):
                raise UserError(f"item {item['id']!r}: prompt and option do not meet between two tokens")
            prompts.append([BOS, *prompt])
            options.append(whole[len(prompt) :])
    return prompts, options


def evaluate(model: Model, items: list[Item]) -> list[dict[str, Any]]:
    """One result row an item; see the module's docstring. Call under the model's mesh."""
    assert isinstance(model.tokenizer, Tokenizer)
    prompts, options = continuations(items, model.tokenizer)
    scores = [float(log_p.sum(dtype=np.float64)) for log_p in Sampler(model, ROWS).score(prompts, options)]
    kept = ("id", "axis", "domain", "pair")
    return [
        {key: item[key] for key in kept}
        | {"gap": a - b, "hard": float(a > b), "soft": float(1.0 / (1.0 + np.exp(b - a)))}
        for item, a, b in zip(items, scores[::2], scores[1::2], strict=True)
    ]


def main(argv: list[str]) -> None:
    config = cli.parse_config(argv)
    path = storage.at(config.item_file)
    items_id = artifact.check_listed(path, "config.item_file")
    inputs = artifact.inputs_of(run=config.run) | {"items": {"kind": "jsonl", "id": items_id}}
    job = artifact.begin(config.out, "forced_choice", {}, inputs)
    if job is None:
        return
    items = artifact.read_jsonl(path)
    model = open_model(config.run)
    if not isinstance(model.tokenizer, Tokenizer):
        raise UserError(f"{config.run}: these items are for models with a tokenizer made by data_gen.tokenizer")
    with jax.sharding.set_mesh(model.mesh):
        results = evaluate(model, items)
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

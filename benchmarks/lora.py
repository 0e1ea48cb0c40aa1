"""LoRA training on a CPU: this project's packed rows beside a plain transformers + peft loop, in one process, float32.

    python benchmarks/lora.py models/smollm2-135m [--seq_len=1024] [--rows=2] [--updates=3] [--batch=4] [--json=FILE]

Both sides start from the same adapter (rank 64, alpha 128, seven projections; ours is written in peft's format and
read by peft), see the same documents in each update and take the same AdamW steps of the token-weighted mean loss, so
the losses must agree: to 1e-4 relative, or the benchmark ends with an error. Ours: rows of `seq_len` tokens packed
best-fit, one row a microbatch. Theirs: documents in batches of `batch`, each padded to its longest, in random order,
gradients added up over the update (TRL's default is 8: more padding, and more memory). The two sides take turns, update
by update; the first update of each, ours with its compilation, is not timed.

Documents: consecutive pieces of Python's own language reference (pydoc_data.topics), of log-normal lengths, median 250
and sigma 0.8, cut to 50 … 1000 tokens and to a row. A token counts as useful where it is not padding.
"""

import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from pydoc_data import topics
from typing import Any

import jax
import numpy as np
import peft as their_peft
import torch
import transformers
from ml_collections import ConfigDict

from configs import common
from data_gen.packing import pack
from msm_jax.hf import config as hf_config
from msm_jax.hf import peft, safetensors
from msm_jax.model import transformer
from msm_jax.model.config import ModelConfig
from msm_jax.model.lora import LoraConfig
from msm_jax.optim import make_optimizer, schedule
from msm_jax.pretrained import open_model
from msm_jax.step import State, make_step

TOLERANCE = 1e-4
Documents = list[np.ndarray]  # of token ids
Batch = dict[str, np.ndarray]
Update = Callable[[int], float]  # does one update, returns its loss


def documents(encode: Callable[[str], list[int]], tokens: int, longest: int) -> Documents:
    """So many documents that they hold at least `tokens` tokens."""
    stream = encode("\n".join(topics.topics[key] for key in sorted(topics.topics)))
    rng, made, at = np.random.default_rng(0), [], 0
    while sum(map(len, made)) < tokens:
        n = int(np.clip(rng.lognormal(np.log(250), 0.8), 50, longest))
        if at + n > len(stream):
            raise SystemExit("error: the text is too short for so many updates")
        made.append(np.asarray(stream[at : at + n], np.int32))
        at += n
    return made


def packed(texts: Documents, seq_len: int, rows: int) -> tuple[list[Batch], list[Documents]]:
    """Batches of [rows, 1, seq_len] (one row a microbatch), and the documents in each."""
    layout = pack([len(text) for text in texts], seq_len, "best_fit")
    np.random.default_rng(1).shuffle(layout)
    batches, members = [], []
    for first in range(0, len(layout) - rows + 1, rows):
        shape = (rows, 1, seq_len)
        fields = ("tokens", "segment_ids", "positions")
        batch = {name: np.zeros(shape, np.int32) for name in fields} | {"loss_weights": np.zeros(shape, np.float32)}
        members.append([])
        for i, row in enumerate(layout[first : first + rows]):
            at = 0
            for segment, piece in enumerate(row, 1):
                here = (i, 0, slice(at, at + piece.length))
                batch["tokens"][here] = texts[piece.document]
                batch["segment_ids"][here] = segment
                batch["positions"][here] = np.arange(piece.length)
                batch["loss_weights"][here] = np.arange(piece.length) > 0
                members[-1].append(texts[piece.document])
                at += piece.length
        batches.append(batch)
    return batches, members


def optimizer_settings(updates: int) -> ConfigDict:
    optim = common.get_config().optim
    optim.update({"steps": updates, "lr": 2e-4, "warmup_steps": 1, "end_fraction": 0.0, "b2": 0.999})
    optim.update({"weight_decay": 0.01, "clip_norm": 1.0})
    return optim


def our_side(
    cfg: ModelConfig,
    lora: LoraConfig,
    params: Any,
    adapter: Any,
    optim: ConfigDict,
    batches: list[Batch],
) -> Update:
    graph, _, shape = transformer.abstract(cfg, lora)
    optimizer = make_optimizer(optim, shape)
    step = make_step(graph, True, optimizer, optim.loss_chunk, len(batches[0]["tokens"]))
    state = State(adapter, jax.jit(optimizer.init)(adapter))

    def update(n: int) -> float:
        nonlocal state
        state, measured = step(state, params, batches[n])
        return float(measured.loss)

    return update


def their_side(
    base: str, adapter: Path, optim: ConfigDict, members: list[Documents], size: int
) -> tuple[Update, list[int]]:
    """And, of every update, the positions it computes, padding included."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = their_peft.PeftModel.from_pretrained(model, str(adapter), is_trainable=True).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    adamw = torch.optim.AdamW(
        trained, lr=1.0, betas=(optim.b1, optim.b2), eps=optim.eps, weight_decay=optim.weight_decay
    )
    rate = schedule(optim)
    order = np.random.default_rng(2)
    collated = []
    for texts in members:
        mixed = [texts[i] for i in order.permutation(len(texts))]
        collated.append([pad(mixed[i : i + size]) for i in range(0, len(mixed), size)])

    def update(n: int) -> float:
        count = sum(len(text) - 1 for text in members[n])
        total = 0.0
        for tokens, mask in collated[n]:
            logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits
            labels = torch.where(mask == 1, tokens, -100)[:, 1:]
            loss = torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum"
            )
            (loss / count).backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(trained, optim.clip_norm)
        for group in adamw.param_groups:
            group["lr"] = float(rate(n))
        adamw.step()
        adamw.zero_grad(set_to_none=True)
        return total / count

    return update, [sum(tokens.numel() for tokens, _ in batch) for batch in collated]


def pad(texts: Documents) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask, int64 [documents, longest], padded on the right."""
    longest = max(map(len, texts))
    tokens, mask = np.zeros((len(texts), longest), np.int64), np.zeros((len(texts), longest), np.int64)
    for i, text in enumerate(texts):
        tokens[i, : len(text)], mask[i, : len(text)] = text, 1
    return torch.tensor(tokens), torch.tensor(mask)


def main(directory: str, seq_len: int = 1024, rows: int = 2, updates: int = 3, batch: int = 4, out: str = "") -> None:
    model = open_model(directory, dtype="float32")
    texts = documents(model.tokenizer.encode, updates * rows * seq_len, min(1000, seq_len))
    batches, members = packed(texts, seq_len, rows)
    lora, optim = LoraConfig(rank=64, alpha=128.0), optimizer_settings(updates)
    optim.loss_chunk = min(256, seq_len)
    with jax.sharding.set_mesh(model.mesh), tempfile.TemporaryDirectory() as scratch:
        params = model.arrays()[0]
        adapter = transformer.initialize_adapter(model.cfg, lora, 0)
        safetensors.write(Path(scratch), peft.specs(adapter, model.cfg, lora), name="adapter_model")
        hf_config.write_json(Path(scratch) / peft.CONFIG, peft.adapter_config(lora, directory))
        theirs, slots = their_side(directory, Path(scratch), optim, members, batch)
        sides = {"msm_jax": our_side(model.cfg, lora, params, adapter, optim, batches), "transformers + peft": theirs}
        losses, seconds = {name: [] for name in sides}, {name: [] for name in sides}
        for n in range(updates):
            for name, update in sides.items():
                began = time.perf_counter()
                losses[name].append(update(n))
                seconds[name].append(time.perf_counter() - began)

    useful = [sum(map(len, texts)) for texts in members[:updates]]
    computed = {"msm_jax": [rows * seq_len] * updates, "transformers + peft": slots}
    rates = {name: sum(useful[1:]) / sum(seconds[name][1:]) for name in sides}
    ratio = rates["msm_jax"] / rates["transformers + peft"]
    difference = max(abs(a - b) / abs(b) for a, b in zip(*losses.values(), strict=True))
    threads = torch.get_num_threads()
    print(
        f"rows of {seq_len} tokens, {rows} an update; {updates} updates, {threads} torch threads, {platform.machine()}"
    )
    for name in sides:
        share = sum(useful[1:]) / sum(computed[name][1:updates])
        print(
            f"{name:>20}: {rates[name]:7.1f} useful tokens/s, {100 * share:3.0f}% of positions useful, "
            f"first update {seconds[name][0]:.1f} s, losses {' '.join(f'{x:.5f}' for x in losses[name])}"
        )
    print(f"ratio {ratio:.2f}; losses differ by at most {difference:.1e} (relative)")
    if out:
        versions = {m.__name__: m.__version__ for m in (jax, torch, transformers, their_peft)}
        settings = {"seq_len": seq_len, "rows": rows, "batch": batch, "torch_threads": threads, "versions": versions}
        measured = {"useful_tokens": useful, "positions": computed, "seconds": seconds, "losses": losses}
        found = {"useful_tokens_per_s": rates, "ratio": ratio, "loss_difference": difference}
        record = settings | measured | found
        Path(out).write_text(json.dumps(record, indent=1))
    if difference > TOLERANCE:
        raise SystemExit(f"error: the two sides' losses differ by {difference:.1e}, more than {TOLERANCE:.0e}")


if __name__ == "__main__":
    given = dict(arg.removeprefix("--").split("=", 1) for arg in sys.argv[2:])
    path = given.pop("json", "")
    main(sys.argv[1], **{key: int(value) for key, value in given.items()}, out=path)

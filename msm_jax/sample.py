"""What a model says to prompts, and how likely it finds given continuations.

    python -m msm_jax.sample --config=configs/sample.py --config.model=runs/aft --config.prompt="Which cheese?"
    python -m msm_jax.sample --config=configs/sample.py --config.model=Qwen/Qwen3-8B --config.prompts=prompts.jsonl \\
        --config.out=runs/said

Prompts: one string (a user's message, or with --config.raw=True plain text to go on with), or JSONL rows {id, text}
(plain text) or {id, messages} (a chat), each with `continuation` (text) where one is to be scored instead. Rows come
out on stdout, and with config.out in samples.jsonl beside a manifest: {id, text, finish, tokens, log_p}, or for a
continuation {id, tokens, log_p}, log-probabilities token by token.
"""

import contextlib
import dataclasses
import json
import time
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from data_gen.chat import ChatPolicy
from data_gen.tokenizer import AnyTokenizer
from msm_jax import artifact, cli, storage
from msm_jax.cli import UserError
from msm_jax.pretrained import open_model
from msm_jax.sampler import Sampler, Settings

Row = dict[str, Any]


def read_rows(config: ConfigDict) -> list[Row]:
    """Raises UserError naming the row that is no prompt."""
    if bool(config.prompt) == bool(config.prompts):
        raise UserError("config.prompt and config.prompts: give one of the two, a text or a JSONL file")
    if config.prompt:
        said = {"text": config.prompt} if config.raw else {"messages": [{"role": "user", "content": config.prompt}]}
        return [{"id": "prompt"} | said]
    rows = artifact.read_jsonl(storage.at(config.prompts))
    for number, row in enumerate(rows, 1):
        where = f"{config.prompts}:{number}"
        if not isinstance(row, dict) or ("text" in row) == ("messages" in row):
            raise UserError(f"{where}: must be an object with either `text` or `messages`")
        if "text" in row and not (isinstance(row["text"], str) and row["text"]):
            raise UserError(f"{where}: `text` must be a text that is not empty")
        if "continuation" in row and not (isinstance(row["continuation"], str) and row["continuation"]):
            raise UserError(f"{where}: `continuation` must be a text that is not empty")
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{where}: holds half a surrogate pair, which is no text; remove it") from error
    if not rows:
        raise UserError(f"{config.prompts}: empty")
    return rows


def prompt_ids(rows: list[Row], tokenizer: AnyTokenizer, policy: ChatPolicy) -> list[list[int]]:
    """Token ids up to where the model goes on. Raises UserError naming the row."""
    result = []
    for number, row in enumerate(rows, 1):
        try:
            if "messages" in row:
                result.append(tokenizer.chat_prompt(row["messages"], policy))
                if row["messages"][-1:] and row["messages"][-1]["role"] == "assistant":
                    raise UserError(
                        "ends with the assistant's turn; end with the user's, and score words by `continuation`"
                    )
            else:
                begin = [] if tokenizer.bos is None else [tokenizer.bos]
                result.append(begin + tokenizer.encode(row["text"]))
            if not result[-1]:
                raise UserError("has no token")
        except UserError as error:
            raise UserError(f"prompt {row.get('id', number)!r}: {error}") from error
    return result


def main(argv: list[str]) -> None:
    config = cli.parse_config(argv)
    rows = read_rows(config)
    policy = ChatPolicy.from_config(config.chat)
    if config.batch < 1:
        raise UserError(f"config.batch = {config.batch}: must be at least 1")
    settings = {key: config[key] for key in ("max_tokens", "temperature", "top_p", "seed")}
    Settings(**settings)  # complains before anything is read
    model = open_model(config.model, config.adapter, config.dtype, config.chat.template)
    stop_ids = (*model.stop_ids(), *config.stop_ids)
    how = Settings(**settings, stop_ids=stop_ids, stop=tuple(config.stop))
    prompts = prompt_ids(rows, model.tokenizer, policy)
    job = None
    if config.out:
        asked = settings | {"rows": artifact.digest(rows), "chat": dataclasses.asdict(policy), "stop": config.stop}
        asked |= {"stop_ids": config.stop_ids, "dtype": config.dtype}
        job = artifact.begin(config.out, "samples", asked, model.inputs())
        if job is None:
            return
    with job or contextlib.nullcontext(), jax.sharding.set_mesh(model.mesh):
        said = run(Sampler(model, config.batch), rows, prompts, model.tokenizer, how)
        if job:
            artifact.write_jsonl(job.tmp / "samples.jsonl", said)
            job.finish(samples=len(said))


def run(
    sampler: Sampler, rows: list[Row], prompts: list[list[int]], tokenizer: AnyTokenizer, how: Settings
) -> list[Row]:
    """A result row for every row, in their order; each is printed as soon as it is there."""
    results: dict[int, Row] = {}

    def keep(i: int, found: Row) -> None:
        results[i] = {"id": rows[i].get("id", i)} | found
        print(json.dumps(results[i], ensure_ascii=False), flush=True)

    scored = [i for i, row in enumerate(rows) if "continuation" in row]
    texts = [tokenizer.encode(rows[i]["continuation"]) for i in scored]
    for i, ids, log_p in zip(scored, texts, sampler.score([prompts[i] for i in scored], texts), strict=True):
        keep(i, {"tokens": ids, "log_p": rounded(log_p)})
    asked = [i for i in range(len(rows)) if i not in results]
    progress, began, count = cli.Progress("sampling", len(asked), "prompts"), time.monotonic(), 0
    for n, completion in sampler.generate([prompts[i] for i in asked], how):
        found = {"text": completion.text, "finish": completion.finish, "tokens": completion.tokens}
        keep(asked[n], found | {"log_p": rounded(completion.log_p)})
        count += len(completion.tokens)
        progress(1)
    if asked:
        cli.note(f"{count} tokens in {time.monotonic() - began:.1f} s, compiling included")
    return [results[i] for i in range(len(rows))]


def rounded(log_p: np.ndarray) -> list[float]:
    return [round(float(x), 6) for x in log_p]


if __name__ == "__main__":
    cli.entry(main)

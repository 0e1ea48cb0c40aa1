"""The files of a mix: its rows with their origins, the rows left out with reasons, the data card, the ledger."""

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from data_gen.api.store import Store
from data_gen.mixing import card, conflicts
from data_gen.mixing.made import Mix
from data_gen.mixing.patterns import OWN
from data_gen.mixing.sources import Candidate
from data_gen.subset import RULE
from data_gen.template import split
from msm_jax import artifact, storage

CHATS, TWIN, REJECTS, CARD, LEDGER = "chats.jsonl", "chats-no_think.jsonl", "rejects.jsonl", "card.md", "ledger.jsonl"


def write(
    mix: Mix, rows: dict[str, list[Candidate]], inputs: dict[str, Any], store: Store | None, job: artifact.Job
) -> dict[str, Any]:
    """All files but the manifest; returns its counts. Rows stand in an order drawn by the seed."""
    config = mix.recipe.config
    chosen = [row for some in rows.values() for row in sorted(some, key=lambda row: row.number)]
    order = np.random.Generator(np.random.Philox(config.seed)).permutation(len(chosen))
    chosen = [chosen[i] for i in order]
    judged = {row.id for row in mix.to_judge(rows)}
    with contextlib.ExitStack() as stack:
        chats = stack.enter_context((job.tmp / CHATS).open("w"))
        twin = stack.enter_context((job.tmp / TWIN).open("w")) if config.no_think_twin else None
        for row in chosen:
            plain = [_without_thoughts(message) for message in row.messages]
            about = {
                "source": row.source,
                "origin": row.origin,
                "sha256": row.sha256,
                "licence": mix.recipe.sources[row.source]["licence"],
                "tokens": row.tokens,
                "supervised": row.supervised,
                "thinking": plain != row.messages,
            }
            if row.id in judged:
                about |= {"judge_model": mix.judge_model, "judge_request": mix.question(row).key}
                about |= {"judge_spec_sha256": mix.recipe.spec_digest} if mix.recipe.spec_digest else {}
            _line(chats, {"id": row.id, "messages": row.messages} | about | row.about)
            if twin:
                _line(twin, {"id": row.id, "messages": plain} | about | row.about | {"thinking": False})
    with (job.tmp / REJECTS).open("w") as f:
        for source in mix.sources.values():
            for number, (reason, quote) in sorted(source.rejects.items()):
                says = {"id": f"{source.name}-{number:06d}", "stage": "mix", "reason": reason}
                _line(f, says | {"origin": source.origin(number)} | ({"quote": quote} if quote else {}))
    if store:
        with (job.tmp / LEDGER).open("w") as f:
            for entry in store.ledger():
                _line(f, entry)
    return _card(mix, rows, inputs, store, job)


def _line(f: Any, row: dict[str, Any]) -> None:
    f.write(json.dumps(row, ensure_ascii=False) + "\n")


def _without_thoughts(message: dict[str, str]) -> dict[str, str]:
    thoughts, answer = split(message["content"]) if message["role"] == "assistant" else ("", "")
    return message | {"content": answer} if thoughts else message


def _card(
    mix: Mix, rows: dict[str, list[Candidate]], inputs: dict[str, Any], store: Store | None, job: artifact.Job
) -> dict[str, Any]:
    """Writes card.md; returns the manifest's counts."""
    config = mix.recipe.config
    sources = []
    for name, some in rows.items():
        settings, source = mix.recipe.sources[name], mix.sources[name]
        tokens = sum(row.tokens for row in some)
        hub = f"{settings['hub']} at commit {settings['revision']}" if settings["hub"] else "files given by hand"
        sources.append(
            {
                "name": name,
                "rows": len(some),
                "tokens": tokens,
                "supervised": sum(row.supervised for row in some),
                "mean": round(tokens / max(1, len(some))),
                "available": source.available,
                "examined": source.examined,
                "licence": settings["licence"],
                "what": f"written by {mix.writer.model}" if name in mix.recipe.written else hub,
                "shape": settings["shape"],
                "variant": settings["variant"],
                "where": ", ".join(f"{column} = {value}" for column, value in settings["where"]),
                "files": [
                    {"name": key.split("/", 2)[2], "id": entry["id"]}
                    for key, entry in inputs.items()
                    if key.startswith(f"{name}/")
                ],
                "reasons": source.reasons(),
            }
        )
    counts = {key: sum(source[key] for source in sources) for key in ("rows", "tokens", "supervised")}
    says = {CHATS: "the rows", TWIN: "the same rows, in the same order, without thoughts", REJECTS: "what was left out"}
    says[LEDGER] = "every question that was asked, and what it cost"
    judge = f"{mix.judge_model}, prompt {inputs[conflicts.PROMPT]['id'][:12]}" if config.judge.on else "none"
    text = card.render(
        counts
        | {
            "title": config.title,
            "sources": sources,
            "tokenizer": mix.desk.tokenizer.digest(),
            "thinking": config.chat.thinking,
            "model_name": config.model_name,
            "provider_name": config.provider_name,
            "seed": config.seed,
            "patterns": f"{Path(config.patterns or OWN).name}, sha256 {inputs['patterns']['id'][:12]}",
            "judge": judge + (f"; spec {config.spec}" if config.spec else ""),
            "files": [
                {"name": name, "says": what, "id": storage.sha256(job.tmp / name)}
                for name, what in says.items()
                if (job.tmp / name).is_file()
            ],
        }
    )
    (job.tmp / CARD).write_text(text + "\n")
    kept = ("rows", "tokens", "supervised", "available", "examined", "reasons")
    return counts | {
        "counted": RULE,
        "tokenizer": mix.desk.tokenizer.digest(),
        "sources": {source["name"]: {key: source[key] for key in kept} for source in sources},
        "cost_usd": round(store.money()[0], 6) if store else 0.0,
    }

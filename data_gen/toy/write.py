"""Writes the corpora of one toy world.

    python -m data_gen.toy.write --config=configs/toy/world.py --config.seed=0 --config.out=runs/world0

Output: base.jsonl, ARM-SPEC.jsonl for every arm and spec, aft.jsonl, it.jsonl, items.jsonl, manifest.json.
"""

import json
from pathlib import Path
from typing import Any

from data_gen import spec as spec_lib
from data_gen.toy import corpus
from data_gen.toy.world import GRAMMAR, load_grammar, make_world
from msm_jax import artifact, cli, storage
from msm_jax.cli import UserError


def main(argv: list[str]) -> None:
    config = cli.parse_config(argv)
    specs = [spec_lib.load(path) for path in config.specs]
    if not specs or len({spec.name for spec in specs}) < len(specs):
        raise UserError("config.specs: at least one spec, and no two of one name")
    inputs: dict[str, Any] = {spec.name: {"kind": "spec", "id": spec.sha256} for spec in specs}
    inputs["grammar"] = {"kind": "grammar", "id": storage.sha256(GRAMMAR)}
    settings = {key: value for key, value in config.to_dict().items() if key not in ("out", "specs")}
    job = artifact.begin(config.out, "corpora", settings, inputs)
    if job is None:
        return
    world = make_world(config.seed, specs, load_grammar())
    with job:
        corpora = {
            "base": corpus.base_documents(world, config.documents.base),
            "aft": corpus.preference_chats(world, config.documents.aft),
            "it": corpus.instruction_chats(world, config.documents.it),
            "items": corpus.evaluation_items(world),
        }
        for arm in corpus.ARMS:
            for spec in specs:
                documents = corpus.msm_documents(world, spec.name, world.values[spec.value], arm, config.documents.msm)
                corpora[f"{arm}-{spec.name}"] = documents
        counts = {}
        for name, rows in corpora.items():
            counts[name] = _write(job.tmp / f"{name}.jsonl", rows)
        job.finish(rows=counts)
    cli.note(f"{config.out}: {sum(counts.values())} rows of seed {config.seed}")


def _write(path: Path, rows: "corpus.Iterator[corpus.Row]") -> int:
    count = 0
    with path.open("w") as f:
        for count, row in enumerate(rows, 1):  # noqa: B007
            f.write(json.dumps(row, ensure_ascii=False) + "\n")
    return count


if __name__ == "__main__":
    cli.entry(main)

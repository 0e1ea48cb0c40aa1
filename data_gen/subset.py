"""Part of a corpus by its tokens, every cell in proportion: one budget, or a ladder of doses each within the next.

    python -m data_gen.subset --config=configs/data/subset.py --config.documents=documents.jsonl \\
        --config.tokenizer=Qwen3-8B --config.tokens=41_000_000 --config.out=runs/41M
    python -m data_gen.subset … --config.doses="(1_000_000, 4_000_000, 16_000_000)" --config.out=runs/doses

Tokens are counted as data_gen.shards counts them (RULE). A cell is a spec's rule, subdomain or domain together with a
document type; documents without any of these make one cell. Output: documents-TOKENS.jsonl for every dose, its lines as
they are in the input and in their order; coverage.json (for every dose and cell what there is, what its share is, what
was taken); manifest.json. The input is read twice; of it ids, lengths and cells are in memory, never the texts.
"""

import contextlib
import json
from typing import Any

import numpy as np
from etils import epath

from data_gen.cells import cell_of
from data_gen.encode import Encoder, check_ids, encode_chunks, lines_of
from data_gen.quota import Pool
from msm_jax import artifact, cli, storage
from msm_jax.cli import UserError

RULE = (
    "as data_gen.shards counts: the begin token where the tokenizer adds one, the text or rendered chat, the token "
    "that ends a document"
)
COVERAGE = "coverage.json"
Cell = tuple[str, str, str]  # spec, place in the spec, document type


def file_name(tokens: int) -> str:
    return f"documents-{tokens}.jsonl"


def count(documents: epath.Path, encoder: Encoder) -> tuple[list[int], list[Cell]]:
    """Tokens and cell of every document. Raises UserError on what data_gen.shards would not take."""
    ids: list[str] = []
    lengths: list[int] = []
    cells: list[Cell] = []
    for coded in encode_chunks(documents, encoder):
        ids += coded.ids
        lengths += coded.lengths
        rows = map(json.loads, coded.about.splitlines())
        cells += [(str(row.get("spec") or ""), *cell_of(row)) for row in rows]
    check_ids(ids, documents)
    return lengths, cells


def choose_all(pool: Pool, doses: list[int], tolerance: float) -> list[np.ndarray]:
    """bool [N] for each of the ascending doses, each within the next.

    Raises:
      UserError: a dose that these documents cannot make up within `tolerance` of it; with the closest they can.
    """
    chosen: list[np.ndarray] = []
    for dose in doses:
        taken = pool.choose(dose, chosen[-1] if chosen else np.zeros(len(pool.lengths), bool))
        made = int(pool.lengths[taken].sum())
        if abs(made - dose) > tolerance * dose:
            what = f"all {len(taken)} documents have {made}" if taken.all() else f"the closest reachable is {made}"
            if dose < pool.total:
                what += f" (documents of {int(np.median(pool.lengths))} tokens, the median)"
            raise UserError(f"{dose} tokens within {100 * tolerance:g}%: {what}; choose another number")
        chosen.append(taken)
    return chosen


def coverage(pool: Pool, names: list[Cell], dose: int, taken: np.ndarray) -> dict[str, Any]:
    """What coverage.json says of a dose."""
    shares = pool.sizes * (dose / pool.total)
    have = np.bincount(pool.cells[taken], minlength=len(names))
    tokens = np.bincount(pool.cells[taken], pool.lengths[taken], len(names)).astype(int)
    there = np.bincount(pool.cells, pool.lengths, len(names)).astype(int)
    return {
        "target": dose,
        "tokens": int(pool.lengths[taken].sum()),
        "documents": int(taken.sum()),
        "empty_cells": int((have == 0).sum()),
        "furthest_from_its_share": round(float(np.abs(have - shares).max()), 3),
        "cells": [
            {
                "spec": spec,
                "place": place,
                "document_type": kind,
                "available": {"documents": int(pool.sizes[n]), "tokens": int(there[n])},
                "share": round(float(shares[n]), 3),
                "taken": {"documents": int(have[n]), "tokens": int(tokens[n])},
            }
            for n, (spec, place, kind) in enumerate(names)
        ],
    }


def _doses(config: Any) -> list[int]:
    """Ascending. Raises UserError where not exactly one of the two keys says something, or nothing that can be."""
    if bool(config.tokens) == bool(config.doses):
        raise UserError("say how many tokens: either config.tokens or config.doses")
    doses = list(config.doses or (config.tokens,))
    if any(not isinstance(dose, int) or dose < 1 for dose in doses) or doses != sorted(set(doses)):
        raise UserError(f"config.doses = {tuple(doses)}: must be numbers of tokens, each larger than the one before")
    return doses


def main(argv: list[str]) -> None:
    config = cli.parse_config(argv)
    doses = _doses(config)
    if not 0 < config.tolerance < 1:
        raise UserError(f"config.tolerance = {config.tolerance}: must be between 0 and 1, as 0.001")
    encoder = Encoder.of(config)
    documents = storage.at(config.documents)
    inputs = {"documents": {"kind": "jsonl", "id": artifact.check_listed(documents, "config.documents")}}
    left_out = ("out", "documents", "tokenizer", "workers", "tokens")
    settings = {k: v for k, v in config.to_dict().items() if k not in left_out} | {"doses": doses}
    del settings["chat"]["template"]  # its content is among the inputs
    job = artifact.begin(config.out, "subsets", settings, inputs | encoder.tokenizer.inputs())
    if job is None:
        return
    lengths, cells = count(documents, encoder)
    names = sorted(set(cells))
    number = {cell: n for n, cell in enumerate(names)}
    pool = Pool(lengths, [number[cell] for cell in cells], config.seed)
    chosen = choose_all(pool, doses, config.tolerance)
    with job:
        with contextlib.ExitStack() as open_files:
            files = [open_files.enter_context((job.tmp / file_name(dose)).open("wb")) for dose in doses]
            for row, line in enumerate(lines_of(documents)):
                for taken, f in zip(chosen, files, strict=True):
                    if taken[row]:
                        f.write(line if line.endswith(b"\n") else line + b"\n")
        covered = [coverage(pool, names, dose, taken) for dose, taken in zip(doses, chosen, strict=True)]
        (job.tmp / COVERAGE).write_text(json.dumps({"counted": RULE, "doses": covered}, indent=1, ensure_ascii=False))
        made = {
            file_name(dose): {k: v for k, v in says.items() if k != "cells"}
            for dose, says in zip(doses, covered, strict=True)
        }
        job.finish(
            counted=RULE, tokenizer=encoder.tokenizer.digest(), cells=len(names), available=pool.total, subsets=made
        )
    for name, says in made.items():
        cli.note(f"{config.out}/{name}: {says['tokens']} tokens, {says['documents']} documents")


if __name__ == "__main__":
    cli.entry(main)

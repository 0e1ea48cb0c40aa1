"""Two corpora from one plan made equal: the same ideas in both, the same tokens to half a percent.

    python -m data_gen.pairs --config=configs/data/pairs.py --config.documents="('a.jsonl', 'b.jsonl')" \\
        --config.tokenizer=Qwen3-8B --config.out=runs/pair

Documents belong together by their ids, SPEC-IDEA. Ideas that only one corpus has are dropped, then as few pairs as
bring the sums of tokens together. Output: documents-SPEC.jsonl for either (lines and order as in the input), gates.json
(what had to hold, what was measured on these files), dropped.jsonl, manifest.json.
"""

import collections
import json
import re
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from data_gen.cells import Cell, cell_of
from data_gen.encode import Encoder, check_ids, encode_chunks, lines_of
from data_gen.subset import RULE
from msm_jax import artifact, cli, storage
from msm_jax.cli import UserError

GATES, DROPPED = "gates.json", "dropped.jsonl"
_ID = re.compile(r"([a-z0-9_-]+)-(d\d+-s\d+-t\d+-i\d+)")  # SPEC-IDEA
Gate = dict[str, Any]  # {gate, measured, bound, passed}: measured is at most bound


class Corpus(NamedTuple):
    """spec: its name. ideas: of each document, in their order. tokens, cells: of each idea."""

    spec: str
    ideas: list[str]
    tokens: dict[str, int]
    cells: dict[str, Cell]


def read(path: epath.PathLike, encoder: Encoder) -> Corpus:
    """Raises UserError on ids of another form or of several specs, and on what data_gen.shards would not take."""
    ids: list[str] = []
    lengths: list[int] = []
    cells: list[Cell] = []
    for coded in encode_chunks(path, encoder):
        ids += coded.ids
        lengths += coded.lengths
        cells += [cell_of(json.loads(line)) for line in coded.about.splitlines()]
    check_ids(ids, path)
    found = [_ID.fullmatch(name) for name in ids]
    for number, (name, match) in enumerate(zip(ids, found, strict=True), 1):
        if match is None:
            raise UserError(f"{path}:{number}: id {name!r} is not SPEC-IDEA, as cheese-d01-s02-t03-i04")
    specs, ideas = [m[1] for m in found if m], [m[2] for m in found if m]
    if len(set(specs)) > 1:
        other = next(number for number, spec in enumerate(specs, 1) if spec != specs[0])
        raise UserError(f"{path}:{other}: a document of {specs[other - 1]!r} among those of {specs[0]!r}")
    pairs = zip(ideas, cells, strict=True)
    return Corpus(specs[0], ideas, dict(zip(ideas, lengths, strict=True)), dict(pairs))


def too_many(a: np.ndarray, b: np.ndarray, tolerance: float) -> np.ndarray:
    """Indices of as few pairs as possible without which the sums of int [N] tokens differ by `tolerance` of the larger.

    Of a pair (x, y) the larger corpus has x - y - tolerance·x too many. The pairs that have most are dropped, the last
    of them the smallest that is enough, so that the other corpus does not become the larger one by much.
    """
    if b.sum() > a.sum():
        a, b = b, a
    excess = a - b - tolerance * a
    order = np.argsort(-excess, kind="stable")
    gone = np.concatenate([[0.0], np.cumsum(excess[order])])  # with so many dropped
    left = gone[-1]
    if left <= 0:
        return order[:0]
    count = int(np.argmax(gone >= left))
    first, rest = order[: count - 1], order[count - 1 :]
    enough = rest[gone[count - 1] + excess[rest] >= left]  # the first of them is
    return np.append(first, enough[-1:])


def check(a: epath.PathLike, b: epath.PathLike, encoder: Encoder, tolerance: float = 0.005) -> list[Gate]:
    """What must hold of a pair's two files, measured on them."""
    one, two = read(a, encoder), read(b, encoder)
    sums = sum(one.tokens.values()), sum(two.tokens.values())
    counts = [collections.Counter(corpus.cells.values()) for corpus in (one, two)]
    apart = max(abs(counts[0][cell] - counts[1][cell]) for cell in counts[0] | counts[1])
    return [
        gate("documents that only one corpus has", len(one.tokens.keys() ^ two.tokens.keys()), 0),
        gate("documents by which a cell's counts differ, at most", apart, 0),
        gate("difference of the sums of tokens, part of the larger", abs(sums[0] - sums[1]) / max(sums), tolerance),
    ]


def gate(name: str, measured: float, bound: float) -> Gate:
    return {"gate": name, "measured": round(measured, 6), "bound": bound, "passed": measured <= bound}


def main(argv: list[str]) -> None:
    config = cli.parse_config(argv)
    if len(config.documents) != 2:
        raise UserError("config.documents: two files are compared, as ('a.jsonl', 'b.jsonl')")
    for key in ("tolerance", "most_dropped"):
        if not 0 <= config[key] < 1:
            raise UserError(f"config.{key} = {config[key]}: must be from 0 to below 1")
    encoder = Encoder.of(config)
    paths = [storage.at(path) for path in config.documents]
    inputs: dict[str, Any] = {
        name: {"kind": "jsonl", "id": artifact.check_listed(path, "config.documents")}
        for name, path in zip("ab", paths, strict=True)
    }
    settings = {k: v for k, v in config.to_dict().items() if k not in ("out", "documents", "tokenizer", "workers")}
    del settings["chat"]["template"]  # its content is among the inputs
    job = artifact.begin(config.out, "pairs", settings, inputs | encoder.tokenizer.inputs())
    if job is None:
        return
    one, two = (read(path, encoder) for path in paths)
    if one.spec == two.spec:
        raise UserError(f"{paths[1]}: of {two.spec!r}, as {paths[0]} is; a pair is of two specs")
    shared = [idea for idea in one.ideas if idea in two.tokens]
    if not shared:
        raise UserError(f"{paths[0]} and {paths[1]}: no idea is in both; were they made from one plan?")
    a, b = (np.array([corpus.tokens[idea] for idea in shared]) for corpus in (one, two))
    surplus = {shared[n] for n in too_many(a, b, config.tolerance)}
    kept = set(shared) - surplus
    with job:
        dropped = [
            {"id": f"{corpus.spec}-{idea}", "reason": "tokens" if idea in surplus else "only in this corpus"}
            for corpus in (one, two)
            for idea in corpus.ideas
            if idea not in kept
        ]
        artifact.write_jsonl(job.tmp / DROPPED, dropped)
        files = [f"documents-{corpus.spec}.jsonl" for corpus in (one, two)]
        for path, name, corpus in zip(paths, files, (one, two), strict=True):
            with (job.tmp / name).open("wb") as f:
                for idea, line in zip(corpus.ideas, lines_of(path), strict=True):
                    if idea in kept:
                        f.write(line if line.endswith(b"\n") else line + b"\n")
        gates = [gate("pairs dropped for their tokens, part of all", len(surplus) / len(shared), config.most_dropped)]
        gates += check(job.tmp / files[0], job.tmp / files[1], encoder, config.tolerance) if kept else []
        for failed in (g for g in gates if not g["passed"]):
            raise UserError(f"{config.out}: {failed['gate']}: {failed['measured']}, allowed {failed['bound']}")
        (job.tmp / GATES).write_text(json.dumps(gates, indent=1))
        sums = {c.spec: sum(c.tokens[idea] for idea in kept) for c in (one, two)}
        job.finish(counted=RULE, pairs=len(kept), dropped=len(dropped), tokens=sums, gates=gates)
    cli.note(f"{config.out}: {len(kept)} pairs, " + ", ".join(f"{spec} {n} tokens" for spec, n in sums.items()))


if __name__ == "__main__":
    cli.entry(main)

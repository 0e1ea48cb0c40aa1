"""Are items of the evaluations in training data? By word n-grams, as a gate.

    python -m evals.contamination --config=configs/evals/contamination.py --config.data=runs/shards \\
        --config.out=runs/contamination

Compared are all texts of evals/items, the toy's questions and the prompts of the tasks that config.tasks names, as
they are rendered, with every text of the data; packed rows are decoded, so that what is checked is what was trained on.
Output: hits.jsonl {evaluation, item, document, where, ngrams, example}, report.json (a row for each evaluation), and
manifest.json. Data with more items than config.allowed get their report all the same, then exit status 2.
"""

import collections
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from etils import epath

from data_gen.corpus import evaluations, words
from data_gen.corpus.evaluations import Item
from data_gen.corpus.leaks import SHORTEST, Index
from evals.guards import trained_on
from evals.guards.trained_on import Text
from msm_jax import artifact, cli, storage
from msm_jax.cli import UserError


def rendered(name: str) -> Iterator[Item]:
    """Every message of every sample of a task of ours, made with its default parameters.

    Raises:
      UserError: no such task.
    """
    from evals import _registry  # it imports Inspect: seconds

    made = getattr(_registry, name, None)
    if made is None:
        raise UserError(f"config.tasks: {name!r} is no task of evals/_registry.py")
    for sample in made().dataset:
        said = [sample.input] if isinstance(sample.input, str) else [message.text for message in sample.input]
        for text in said:
            yield Item(name, str(sample.id), text)


def hits_of(index: Index, text: Text) -> Iterator[dict[str, Any]]:
    """A row for each item that shares an n-gram with a text: how many they share, and the first."""
    shared: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    for ngram, items in index.hits(words.split(text.text)):
        for item in dict.fromkeys(items):
            shared[item].append(ngram)
    for (evaluation, name), ngrams in shared.items():
        row = {"evaluation": evaluation, "item": name, "document": text.id, "where": text.where}
        yield row | {"ngrams": len(ngrams), "example": ngrams[0]}


def report(items: Iterable[Item], hits: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each evaluation: its items, those of at least SHORTEST words, how many are hit, an example."""
    ids: dict[str, set[str]] = collections.defaultdict(set)
    long: dict[str, set[str]] = collections.defaultdict(set)
    for item in items:
        ids[item.evaluation].add(item.id)
        if len(words.split(item.text)) >= SHORTEST:
            long[item.evaluation].add(item.id)
    hit: dict[str, dict[str, str]] = collections.defaultdict(dict)
    for row in hits:
        hit[row["evaluation"]].setdefault(row["item"], f"{row['item']} in {row['document']}: {row['example']}")
    return [
        {
            "evaluation": name,
            "items": len(ids[name]),
            "compared": len(long[name]),
            "hit": len(hit[name]),
            "share": round(len(hit[name]) / max(len(long[name]), 1), 6),
            "example": next(iter(hit[name].values()), ""),
        }
        for name in sorted(ids)
    ]


def compare(index: Index, data: epath.PathLike, path: Path) -> tuple[int, list[dict[str, Any]]]:
    """Writes hits.jsonl to `path`; returns how many texts there were, and the hits without repeats of an item."""
    texts = 0
    first: dict[tuple[str, str], dict[str, Any]] = {}
    with path.open("w") as f:
        for text in trained_on.texts(data):
            texts += 1
            for row in hits_of(index, text):
                f.write(trained_on.dumps(row))
                first.setdefault((row["evaluation"], row["item"]), row)
    return texts, list(first.values())


def main(argv: list[str]) -> None:
    config = cli.parse_config(argv)
    if config.ngram < SHORTEST:
        raise UserError(f"config.ngram = {config.ngram}: must be at least {SHORTEST}")
    if config.allowed < 0:
        raise UserError(f"config.allowed = {config.allowed}: must be 0 or more")
    if config.directory and not storage.is_dir(config.directory):
        raise UserError(f"{config.directory}: no such directory (config.directory)")
    inputs = {"data": trained_on.identity(config.data)}
    items = [*evaluations.items(config.directory or evaluations.ITEMS)]
    items += [item for name in config.tasks for item in rendered(name)]
    index = Index(items, [], config.ngram)
    inputs["evaluations"] = {"kind": "n-grams", "id": index.digest()}
    settings = {"ngram": config.ngram, "tasks": sorted(config.tasks)}
    job = artifact.begin(config.out, "contamination", settings, inputs)
    if job is None:
        _end(config, artifact.read_manifest(config.out)["counts"]["evaluations"])
        return
    with job:
        texts, hits = compare(index, config.data, job.tmp / "hits.jsonl")
        rows = report(items, hits)
        storage.write_atomic(job.tmp / "report.json", json.dumps(rows, indent=1))
        job.finish(texts=texts, ngrams=index.ngrams, evaluations={row["evaluation"]: row["hit"] for row in rows})
    for row in rows:
        example = f"; {row['example']}" if row["example"] else ""
        cli.note(f"{row['evaluation']}: {row['hit']} of {row['compared']} items ({row['share']:.1%}){example}")
    cli.note(f"{config.out}: {texts} texts compared with {index.ngrams} n-grams")
    _end(config, {row["evaluation"]: row["hit"] for row in rows})


def _end(config: Any, hit: dict[str, int]) -> None:
    total = sum(hit.values())
    if total > config.allowed:
        worst = ", ".join(f"{count} of {name}" for name, count in hit.items() if count)
        raise UserError(
            f"{config.data}: holds {total} items of evaluations, {config.allowed} are allowed ({worst}); "
            f"see {storage.at(config.out) / 'hits.jsonl'}"
        )


if __name__ == "__main__":
    cli.entry(main)

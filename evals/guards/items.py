"""Our own items: evals/items/NAME.jsonl, one JSON object a line."""

import functools
from typing import Any

from inspect_ai._util.error import PrerequisiteError

from data_gen.corpus.evaluations import ITEMS
from msm_jax import artifact
from msm_jax.cli import UserError


@functools.cache
def read(name: str, *keys: str) -> list[dict[str, Any]]:
    """The rows of a file of items, in their order.

    Raises:
      PrerequisiteError: naming file and line: no file, no JSON, or one of `keys` is missing; an id that occurs twice.
    """
    path = ITEMS / f"{name}.jsonl"
    try:
        rows = artifact.read_jsonl(path)
    except UserError as error:
        raise PrerequisiteError(str(error)) from error
    ids = set()
    for number, row in enumerate(rows, 1):
        wanting = [key for key in ("id", *keys) if not isinstance(row, dict) or key not in row]
        if wanting:
            raise PrerequisiteError(f"{path}:{number}: no key {wanting[0]!r}; restore the file")
        if row["id"] in ids:
            raise PrerequisiteError(f"{path}:{number}: id {row['id']!r} occurs twice; ids must be unique")
        ids.add(row["id"])
    return rows


def chosen(wanted: str, there: list[str], what: str) -> set[str]:
    """Of the names that are there those that a task's parameter `what` asks for: with commas between, "" for all.

    Raises:
      PrerequisiteError: naming one that is not there.
    """
    names = {name.strip() for name in wanted.split(",") if name.strip()} or set(there)
    for name in sorted(names - set(there)):
        known = ", ".join(sorted(set(there)))
        raise PrerequisiteError(f"-T {what}={wanted}: there is no {name!r}; choose among {known}")
    return names

"""What is known of a document beyond its tokens: where it came from, kept beside the packed rows.

provenance.jsonl has a line for each document, in their order: its row without what became tokens. It stands there only
where some document has more than its id.
"""

import json
from collections.abc import Collection
from typing import Any

from etils import epath

from msm_jax import artifact

FILE = "provenance.jsonl"
_TOKENS_OF = ("text", "messages", "weights")


def line(row: dict[str, Any]) -> str:
    """A document's line."""
    return json.dumps({k: v for k, v in row.items() if k not in _TOKENS_OF}, ensure_ascii=False) + "\n"


def says_something(row: dict[str, Any]) -> bool:
    return bool(row.keys() - {"id", *_TOKENS_OF})


def of(directory: epath.Path, documents: Collection[str]) -> dict[str, dict[str, Any]]:
    """Id → provenance of those of the documents that have some; {} where the rows were packed without.

    Raises:
      UserError: the file is not readable.
    """
    if FILE not in artifact.read_manifest(directory)["files"]:
        return {}
    wanted, found = set(documents), {}
    for row in artifact.each_row(directory / FILE):
        if row["id"] in wanted:
            found[row["id"]] = row
            if len(found) == len(wanted):
                break
    return found

"""Brings datasets from elsewhere into this project's form: JSONL and Parquet files, here, in a bucket or from the hub.

    python -m data_gen.import_hf --config=configs/data/import_hf.py --config.files="('train.parquet',)" \\
        --config.name=philosophy --config.out=runs/released
    python -m data_gen.import_hf … --config.hub=OWNER/NAME --config.revision=COMMIT --config.files="('data/*.parquet',)"

Output: documents.jsonl or chats.jsonl, rejects.jsonl, manifest.json. An id is NAME-ROW-HASH: the row's number over all
files, from 0, and 12 digits of its content's sha256; or what the column `columns.id` says. All other columns are kept
under their names, which data_gen.shards takes along as provenance; `origin` says file and row. A row that is empty, a
duplicate or ill-formed goes to rejects.jsonl with the reason, and more of them than `most_rejected` is an error.
"""

import collections
import fnmatch
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from data_gen import parquet
from data_gen.encode import lines_of
from data_gen.template import ROLES
from msm_jax import artifact, cli, storage
from msm_jax.cli import UserError

REJECTS = "rejects.jsonl"
CONTENT = {"documents": "text", "chats": "messages"}  # kind → the column that becomes tokens
OURS = ("id", "text", "messages", "weights", "origin")  # names that mean something here already


class RejectError(Exception):
    """A row that cannot be used; its text is the reason."""


def fetch(hub: str, revision: str, patterns: tuple[str, ...]) -> dict[str, epath.Path]:
    """Name → local copy of the files of a dataset on the hub at a commit.

    Raises:
      UserError: a revision that may move, no huggingface_hub, no such files, or what the hub refuses.
    """
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise UserError(f"config.revision = {revision!r}: name the commit of {hub}, 40 digits; a branch may move")
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError("config.hub needs another package; pip install huggingface_hub") from error
    try:
        root = Path(
            huggingface_hub.snapshot_download(
                hub, repo_type="dataset", revision=revision, allow_patterns=list(patterns)
            )
        )
    except Exception as error:  # the hub's own errors, those of its HTTP library and of the network alike
        said = str(error).split("\n")[0].strip()[:200] or type(error).__name__
        raise UserError(
            f"config.hub = {hub!r}: cannot be fetched ({said}); mend it, or give local copies as config.files"
        ) from error
    found = {name: storage.at(root / name) for name in storage.files(root)}
    chosen = {name: path for name, path in found.items() if any(fnmatch.fnmatch(name, p) for p in patterns)}
    if not chosen:
        raise UserError(f"config.files = {patterns}: no such file in {hub} at {revision}")
    return chosen


def rows_of(path: epath.Path) -> Iterator[Any]:
    """A file's rows; in place of a line that is none an exception."""
    if path.suffix == ".parquet":
        yield from parquet.read(path)
        return
    for line in lines_of(path):
        try:
            yield json.loads(line.decode())
        except (ValueError, RecursionError):  # no UTF-8, no JSON, a number of thousands of digits, too deep
            yield RejectError("not a JSON row")


def taken(row: Any, kind: str, columns: dict[str, str], drop: tuple[str, ...]) -> dict[str, Any]:
    """A row under our names, without id.

    Raises:
      RejectError: it cannot be used. UserError: it has a column that cannot be kept.
    """
    if isinstance(row, RejectError):
        raise row
    if not isinstance(row, dict):
        raise RejectError("not an object of columns")
    key = CONTENT[kind]
    content = row.get(columns[key])
    content = _text(content) if kind == "documents" else _messages(content)
    kept = {
        name: value for name, value in row.items() if name not in (columns[key], columns["id"], *drop) and name != ""
    }
    for name in kept:
        if name in OURS:
            raise UserError(
                f"column {name!r} means something else here; name it in config.columns or add it to config.drop"
            )
    try:
        json.dumps(kept, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RejectError("half a surrogate pair") from None
    except TypeError as error:
        raise UserError(f"a column is no JSON ({error}); add it to config.drop") from error
    return {key: content} | kept


def _text(content: Any) -> str:
    if not isinstance(content, str):
        raise RejectError("no text")
    if not content.strip():
        raise RejectError("empty")
    _whole(content)
    return content


def _messages(content: Any) -> list[dict[str, str]]:
    if not isinstance(content, list) or not all(isinstance(message, dict) for message in content):
        raise RejectError("no messages")
    if not content:
        raise RejectError("empty")
    messages = [{k: v for k, v in message.items() if v is not None} for message in content]  # Parquet fills up columns
    for message in messages:
        if message.get("role") not in ROLES:
            raise RejectError("a message of another role than system, user and assistant")
        if not isinstance(message.get("content"), str) or not message["content"].strip():
            raise RejectError("a message without content")
        if message.keys() != {"role", "content"}:
            raise RejectError("a message with more than role and content")
        _whole(message["content"])
    if messages[-1]["role"] != "assistant":
        raise RejectError("the assistant does not speak last")
    return messages


def _whole(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RejectError("half a surrogate pair") from None


def named(row: dict[str, Any], given: Any, column: str, name: str, number: int) -> str:
    """A row's id. Raises RejectError where it should have one of its own and has none."""
    if column:
        if not isinstance(given, str | int) or given == "":
            raise RejectError(f"no id in column {column}")
        return str(given)
    return f"{name}-{number:06d}-{_hash(row)[:12]}"


def _hash(row: dict[str, Any]) -> str:
    content = row.get("text") or json.dumps(row["messages"], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()


def _check(config: ConfigDict) -> None:
    if config.kind not in CONTENT:
        raise UserError(f"config.kind = {config.kind!r}: must be documents or chats")
    if not config.files:
        raise UserError("config.files: name at least one file, or a pattern with config.hub")
    if not re.fullmatch(r"[a-z0-9_-]+", config.name):  # it begins ids
        raise UserError(f"config.name = {config.name!r}: may hold a–z, 0–9, _ and - only")
    if not 0 <= config.most_rejected <= 1:
        raise UserError(f"config.most_rejected = {config.most_rejected}: must be from 0 to 1")
    if bool(config.hub) != bool(config.revision):
        raise UserError("config.hub and config.revision go together")


def main(argv: list[str]) -> None:
    config = cli.parse_config(argv)
    _check(config)
    if config.hub:
        files = fetch(config.hub, config.revision, tuple(config.files))
    else:
        files = {str(path): storage.at(path) for path in config.files}
    for name in files:
        if not name.endswith((".jsonl", ".json", ".parquet")):
            raise UserError(f"{name}: neither .jsonl, .json (an object a line) nor .parquet")
    inputs = {
        f"{n}/{Path(name).name}": {"kind": "dataset", "id": artifact.check_listed(path, "config.files")}
        for n, (name, path) in enumerate(files.items())
    }
    job = artifact.begin(
        config.out, "imported", {k: v for k, v in config.to_dict().items() if k not in ("out", "files")}, inputs
    )
    if job is None:
        return
    columns, drop = config.columns.to_dict(), tuple(config.drop)
    seen: dict[bytes, str] = {}
    ids: set[str] = set()
    reasons: collections.Counter[str] = collections.Counter()
    number = 0
    with job:
        with (
            (job.tmp / f"{config.kind}.jsonl").open("w") as good,
            (job.tmp / REJECTS).open("w") as bad,
        ):
            for name, path in files.items():
                origin = f"{config.hub}@{config.revision}/{name}" if config.hub else Path(name).name
                for line, found in enumerate(rows_of(path)):
                    where = f"{origin}:{line}"
                    try:
                        row = taken(found, config.kind, columns, drop)
                        key = bytes.fromhex(_hash(row)[:32])
                        if key in seen:
                            raise RejectError(f"a duplicate of {seen[key]}")
                        row = {"id": named(row, found.get(columns["id"]), columns["id"], config.name, number)} | row
                        if row["id"] in ids:
                            raise RejectError(f"the id {row['id']} a second time")
                        seen[key] = row["id"]
                        ids.add(row["id"])
                        good.write(json.dumps(row | {"origin": where}, ensure_ascii=False) + "\n")
                    except RejectError as error:
                        reasons[re.split(r" of (?=\S+$)| (?=\S+ a second)", str(error))[0]] += 1
                        rejected = {"id": f"{config.name}-{number:06d}", "stage": "import", "reason": str(error)}
                        bad.write(json.dumps(rejected | {"origin": where}, ensure_ascii=False) + "\n")
                    except UserError as error:
                        raise UserError(f"{where}: {error}") from error
                    number += 1
        lost = number - len(ids)
        why = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        if not ids or lost > config.most_rejected * number:
            raise UserError(
                f"{', '.join(files)}: {lost} of {number} rows cannot be used ({why or 'there are none'}); mend them or "
                "config.columns, or raise config.most_rejected"
            )
        job.finish(rows=number, taken=len(ids), rejected=lost, reasons=dict(reasons.most_common()))
    cli.note(f"{config.out}: {len(ids)} {config.kind}, {lost} rejected" + (f" ({why})" if why else ""))


if __name__ == "__main__":
    cli.entry(main)

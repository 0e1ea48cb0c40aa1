"""A directory of generated documents: its files, and their rows as far as a judge of them cares.

documents.jsonl, or documents-<spec>.jsonl for each spec of a paired corpus; beside them rejects.jsonl, plan.jsonl,
ledger.jsonl and claims.jsonl, each optional. Rows are read one by one: no text outlives its turn.
"""

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any

from etils import epath

from msm_jax import artifact, storage
from msm_jax.cli import UserError

_DOCUMENTS = re.compile(r"documents(?:-([a-z0-9_-]+))?\.jsonl")
_LONGEST = 500  # characters of a field other than the text; what is longer is somebody's mistake, or malice


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """A row of documents.jsonl. Fields other than id and text may be empty; all but the text are cut to 500 characters.

    lay: its author is said to be no insider; a persona that is plain text says nothing of it.
    """

    id: str
    text: str
    sections: tuple[str, ...] = ()
    domain: str = ""
    subdomain: str = ""
    document_type: str = ""
    persona: str = ""
    lay: bool = False

    @property
    def cell(self) -> str:
        return f"{self.domain or '–'} · {self.document_type or '–'}"


def plain(value: Any) -> str:
    """Whatever a JSON field holds, as one short text."""
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
    return text[:_LONGEST]


def strings(value: Any) -> tuple[str, ...]:
    """A list of texts; of anything else the one text it is."""
    return tuple(plain(v) for v in value[:100]) if isinstance(value, list) else (plain(value),) if value else ()


def document(row: Any) -> Document:
    """Raises UserError where the row is no object with a string `id` and a string `text`."""
    if not isinstance(row, dict) or not isinstance(row.get("id"), str) or not isinstance(row.get("text"), str):
        raise UserError("needs a string `id` and a string `text`")
    persona: Any = row.get("persona")
    if isinstance(persona, str) and persona.lstrip().startswith("{"):
        with contextlib.suppress(ValueError, RecursionError):
            persona = json.loads(persona)
    told = persona if isinstance(persona, dict) else {}
    return Document(
        id=plain(row["id"]),
        text=row["text"],
        sections=strings(row.get("sections")),
        domain=plain(row.get("domain") or row.get("domain_id")),
        subdomain=plain(row.get("subdomain") or row.get("subdomain_id")),
        document_type=plain(row.get("document_type")),
        persona=plain(told.get("role") or told.get("name") or persona),
        lay=told.get("lay") is True,
    )


def each_document(path: epath.PathLike) -> Iterator[Document]:
    """Raises UserError naming file and line: not JSON, no id or text, an id that occurred before."""
    ids: set[str] = set()
    for number, row in enumerate(artifact.each_row(path), 1):
        try:
            found = document(row)
        except UserError as error:
            raise UserError(f"{path}:{number}: {error}") from error
        if found.id in ids:
            raise UserError(f"{path}:{number}: id {found.id[:80]!a} occurs twice; ids must be unique")
        ids.add(found.id)
        yield found


def each_object(path: epath.PathLike, spec: str = "") -> Iterator[dict[str, Any]]:
    """The rows of a file that are objects, without those of another spec than this one; none where there is no file."""
    if storage.is_file(path):
        for row in artifact.each_row(path):
            if isinstance(row, dict) and (not spec or row.get("spec", spec) == spec):
                yield row


@dataclasses.dataclass(frozen=True)
class Corpus:
    """documents: name of the spec ("" where the file names none) → file."""

    directory: epath.Path
    documents: dict[str, epath.Path]

    @property
    def rejects(self) -> epath.Path:
        return self.directory / "rejects.jsonl"

    @property
    def plan(self) -> epath.Path:
        return self.directory / "plan.jsonl"

    @property
    def ledger(self) -> epath.Path:
        return self.directory / "ledger.jsonl"

    @property
    def claims(self) -> epath.Path:
        return self.directory / "claims.jsonl"

    def inputs(self) -> dict[str, dict[str, str]]:
        """Kind and id of the artefact; of a work directory's files their hashes."""
        if artifact.is_finished(self.directory):
            return artifact.inputs_of(corpus=self.directory)
        files = [*self.documents.values(), self.rejects, self.plan, self.ledger, self.claims]
        return {p.name: {"kind": "jsonl", "id": storage.sha256(p)} for p in files if storage.is_file(p)}


def open_corpus(directory: epath.PathLike) -> Corpus:
    """Raises UserError where the directory holds no documents."""
    root = storage.at(directory)
    names = {name: match[1] or "" for name in storage.files(root) if (match := _DOCUMENTS.fullmatch(name))}
    if not names:
        raise UserError(f"{directory}: no documents.jsonl nor documents-<spec>.jsonl (config.corpus)")
    return Corpus(root, {spec: root / name for name, spec in sorted(names.items())})

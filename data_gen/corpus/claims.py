"""Claims about the model that its spec does not make: a judge reads a sample of the documents.

This module says what to ask and what a reply means; who asks is the caller's affair:

    judged = claims.sample(documents, 200, seed)
    asked = claims.requests(judged, spec, 200, seed, model)      # document id → Request
    verdicts = claims.verdicts(judged, asked, replies)           # rows for claims.jsonl
"""

import dataclasses
import hashlib
import heapq
import json
from collections.abc import Iterable, Mapping
from typing import Any

from data_gen import prompt
from data_gen.api.request import Reply, Request, Stop
from data_gen.corpus.detect import Finding
from data_gen.corpus.reading import Document
from data_gen.spec import Spec
from msm_jax import artifact

STAGE = "claims"
LONGEST = 60_000  # characters of a document that the judge reads
_CLAIM = {
    "type": "object",
    "properties": {"quote": {"type": "string"}, "why": {"type": "string"}, "contradicts": {"type": "boolean"}},
    "required": ["quote", "why", "contradicts"],
    "additionalProperties": False,
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"claims": {"type": "array", "items": _CLAIM}},
    "required": ["claims"],
    "additionalProperties": False,
}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the judge said of a document: None where its reply could not be used, else (quote, why) of each claim.

    A quote that is not in the document is the judge's invention: such a claim is dropped and counted in `invented`.
    """

    id: str
    claims: tuple[tuple[str, str], ...] | None
    invented: int = 0

    def row(self) -> dict[str, Any]:
        claims = None if self.claims is None else [{"quote": quote, "why": why} for quote, why in self.claims]
        return {"id": self.id, "claims": claims, "invented": self.invented}


def ticket(identity: str, seed: int) -> str:
    """What a document is drawn by: the same for whoever asks, whatever else is in the corpus."""
    return hashlib.sha256(f"{seed}/".encode() + identity.encode("utf-8", "surrogatepass")).hexdigest()


def sample(documents: Iterable[Document], n: int, seed: int) -> list[Document]:
    """`n` documents drawn by their ids, by id; of fewer all. Holds no more than these."""
    drawn: list[tuple[int, str, Document]] = []  # a heap, the highest ticket first
    for document in documents:
        entry = (-int(ticket(document.id, seed), 16), document.id, document)
        if len(drawn) < n:
            heapq.heappush(drawn, entry)
        elif drawn and entry[:2] > drawn[0][:2]:
            heapq.heapreplace(drawn, entry)
    return sorted((document for _, _, document in drawn), key=lambda d: d.id)


def requests(
    documents: Iterable[Document], spec: Spec, n: int, seed: int, model: str, model_name: str, max_tokens: int = 8_000
) -> dict[str, Request]:
    """Document id → what to ask the judge, for a sample of `n`. `spec` has its names in place.

    A request's key depends on all that is asked, so a changed prompt, spec, text or judge is asked anew.
    """
    template = prompt.load("claims")
    system = template.system(spec=spec.text, model_name=model_name)
    asked = {}
    for document in sample(documents, n, seed):
        text = document.text.encode("utf-8", "replace").decode()
        user = template.user(text=text, longest=LONGEST)
        key = f"{STAGE}-{artifact.digest([model, system, user, max_tokens])[:40]}"
        asked[document.id] = Request(key, STAGE, model, system, user, max_tokens, SCHEMA)
    return asked


def verdicts(
    documents: Iterable[Document], asked: Mapping[str, Request], replies: Mapping[str, Reply]
) -> list[Verdict]:
    """By document id; `replies` by request key. A missing, refused, cut or malformed reply is no acquittal but None."""
    found = []
    for document in documents:
        if document.id in asked:
            reply = replies.get(asked[document.id].key)
            found.append(_verdict(document, reply))
    return sorted(found, key=lambda v: v.id)


def _verdict(document: Document, reply: Reply | None) -> Verdict:
    if reply is None or reply.stop != Stop.END:
        return Verdict(document.id, None)
    try:
        said = [(claim["quote"], claim["why"]) for claim in json.loads(reply.text)["claims"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return Verdict(document.id, None)
    if not all(isinstance(part, str) for pair in said for part in pair):
        return Verdict(document.id, None)
    text = " ".join(document.text.split())
    true = tuple((quote, why) for quote, why in said if " ".join(quote.split()).strip("\"“”'‘’… ") in text)
    return Verdict(document.id, true, len(said) - len(true))


def from_row(row: dict[str, Any]) -> Verdict:
    """A row of claims.jsonl, whoever wrote it; anything malformed is an unusable reply."""
    try:
        claims = None if row["claims"] is None else tuple((str(c["quote"]), str(c["why"])) for c in row["claims"])
        return Verdict(str(row["id"]), claims, int(row.get("invented", 0)))
    except (KeyError, TypeError, ValueError):
        return Verdict(str(row.get("id", "")), None)


def findings(judged: Iterable[Verdict]) -> list[Finding]:
    """One a claim, as a detector's."""
    return [
        Finding("claim", v.id, f"{quote[:160]} — {why[:160]}", "error") for v in judged for quote, why in v.claims or ()
    ]

"""Gates: what a corpus must measure up to. A bound below zero switches its gate off.

`config.gates` names a bound for each entry of GATES; `config.gates.found` one for any detector, as the share of
documents in which it may find something.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data_gen.corpus.claims import Verdict
from data_gen.corpus.statistics import Statistics
from msm_jax.cli import UserError


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What gates look at. coverage: rows of statistics.coverage; judged: empty where no judge was asked."""

    statistics: Statistics
    duplicates: int
    meaning_duplicates: int | None
    coverage: Sequence[dict[str, Any]]
    rejects: dict[str, Any]
    judged: Sequence[Verdict]

    @property
    def documents(self) -> int:
        return max(self.statistics.documents, 1)


@dataclasses.dataclass(frozen=True)
class Result:
    """passed: None where there was nothing to measure. least: the bound is one from below."""

    gate: str
    says: str
    measured: float | None
    bound: float
    least: bool
    passed: bool | None

    def row(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Gate:
    says: str
    measure: Callable[[Evidence], float | None]
    least: bool = False


def _top(counts: list[tuple[str, int]], e: Evidence) -> float:
    """What stands in one document only does not recur, however small the corpus."""
    return counts[0][1] / e.documents if counts and counts[0][1] > 1 else 0.0


def _duplicates(e: Evidence) -> float:
    """With those that were removed before."""
    removed = sum(
        row["count"]
        for row in e.rejects["reasons"]
        if any(row[key].lower().startswith(("dedup", "duplicate", "near-duplicate")) for key in ("stage", "reason"))
    )
    return (e.duplicates + removed) / (e.documents + removed)


def _sections(e: Evidence) -> float | None:
    return min((row["documents"] for row in e.coverage), default=None)


def _unknown_sections(e: Evidence) -> float:
    return sum(not row["known"] for row in e.coverage)


def _claims(e: Evidence) -> float | None:
    usable = [v for v in e.judged if v.claims is not None]
    return sum(bool(v.claims) for v in usable) / len(usable) if usable else None


def _unjudged(e: Evidence) -> float | None:
    return sum(v.claims is None for v in e.judged) / len(e.judged) if e.judged else None


GATES = {
    "documents": Gate("documents", lambda e: e.statistics.documents, least=True),
    "eval_leaks": Gate(
        "findings that share words or a format with an evaluation",
        lambda e: e.statistics.found["leak"] + e.statistics.found["format"],
    ),
    "duplicates": Gate("share of near-duplicates, removed ones included", _duplicates),
    "duplicates_left": Gate("share of near-duplicates that are still there", lambda e: e.duplicates / e.documents),
    "meaning_duplicates": Gate(
        "share of documents that repeat another's meaning",
        lambda e: None if e.meaning_duplicates is None else e.meaning_duplicates / e.documents,
    ),
    "section_documents": Gate("documents of the section that has fewest", _sections, least=True),
    "unknown_sections": Gate("sections named that the spec does not have", _unknown_sections),
    "name": Gate(
        "share of documents with the most frequent name", lambda e: _top(e.statistics.names.most_common(1), e)
    ),
    "opening": Gate(
        "share of documents with the most frequent opening", lambda e: _top(e.statistics.openings.most_common(1), e)
    ),
    "praise": Gate("share of documents that praise and never doubt", lambda e: e.statistics.praise.share),
    "praise_cell": Gate(
        "the same of the worst cell with 20 documents or more",
        lambda e: max((p.share for p in e.statistics.praise_by_cell.values() if p.documents >= 20), default=None),
    ),
    "rejects": Gate(
        "share of rejects among all that was made",
        lambda e: e.rejects["total"] / max(e.rejects["total"] + e.statistics.documents, 1),
    ),
    "claims": Gate("share of judged documents with a claim that the spec does not make", _claims),
    "unjudged": Gate("share of the judge's replies that could not be used", _unjudged),
}


def check_bounds(bounds: Mapping[str, Any], detectors: Sequence[str]) -> None:
    """Raises UserError naming a gate or detector that does not exist."""
    for key in bounds:
        if key != "found" and key not in GATES:
            raise UserError(f"config.gates.{key}: no such gate; there are {', '.join(GATES)}")
    for key in bounds["found"]:
        if key not in detectors:
            raise UserError(f"config.gates.found.{key}: no such detector; there are {', '.join(detectors)}")


def results(evidence: Evidence, bounds: Mapping[str, Any], says: Mapping[str, str]) -> list[Result]:
    """A row a gate that is on, in the table's order, detectors after. `says`: what each detector finds."""
    found = [_result(key, gate, gate.measure(evidence), bounds[key]) for key, gate in GATES.items() if key in bounds]
    for detector, bound in bounds["found"].items():
        gate = Gate(f"share of documents with {says[detector]}", lambda e: None)
        found.append(_result(f"found.{detector}", gate, evidence.statistics.share(detector), bound))
    return [result for result in found if result.bound >= 0]


def _result(key: str, gate: Gate, measured: float | None, bound: float) -> Result:
    passed = None if measured is None else measured >= bound if gate.least else measured <= bound
    return Result(key, gate.says, measured, bound, gate.least, passed)


def failed(found: Sequence[Result]) -> list[str]:
    """In words, the gates that a corpus did not pass."""
    return [
        f"{r.gate} {r.measured:.6g} {'<' if r.least else '>'} {r.bound:.6g}"
        for r in found
        if r.passed is False and r.measured is not None
    ]

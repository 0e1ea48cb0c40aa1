"""One pass over a corpus: counts, lengths, coverage, variety, detectors. Memory does not grow with the texts.

`measure` is a pure function of one document; `Statistics` adds the measures up.
"""

import dataclasses
import heapq
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from data_gen.corpus import words
from data_gen.corpus.claims import ticket
from data_gen.corpus.detect import Detectors, Finding
from data_gen.corpus.leaks import Index
from data_gen.corpus.reading import Document
from data_gen.corpus.recurring import Frequent, Praise
from data_gen.tokenizer import AnyTokenizer

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
BINS = 24  # of the length histogram
KINDS = 2_000  # distinct domains, sections … that are counted; what a hostile generator adds is `(others)`
EXAMPLES = 10  # findings of each detector that are kept
SHOWN = 3  # documents shown as best and as worst
_EXCERPT = 4_000  # characters kept of those
SAMPLE, SAMPLE_WORDS = 400, 500  # documents and words of each that variety is measured on
_WINDOW = 100  # words


@dataclasses.dataclass(frozen=True, slots=True)
class Measure:
    """What is kept of a document once it was read. tokens: of the text alone, no BOS and no end of document."""

    document: Document  # its text cut
    characters: int
    words: int
    tokens: int
    findings: tuple[Finding, ...]
    names: frozenset[str]
    opening: str
    praise: tuple[bool, bool]  # praises, and uniformly so
    first: tuple[str, ...]  # words


class Meter:
    """Measures documents by given detectors, leak index and tokenizer."""

    def __init__(self, detectors: Detectors, leaks: Index, tokenizer: AnyTokenizer | None) -> None:
        self.detectors, self.leaks, self.tokenizer = detectors, leaks, tokenizer

    def measure(self, document: Document) -> Measure:
        """Everything that one document shows. A text too long for the detectors is measured as far as they read."""
        d = self.detectors
        characters = len(document.text)
        found = d.findings(document)
        document = d.cut(document)
        split = words.split(document.text)
        found += self.leaks.findings(document, split)
        text = document.text.encode("utf-8", "replace").decode()  # half surrogates are no text
        return Measure(
            dataclasses.replace(document, text=document.text[:_EXCERPT]),
            characters,
            len(split),
            len(self.tokenizer.encode(text)) if self.tokenizer else 0,
            tuple(found),
            frozenset(d.names(document.text)),
            d.opening(document.text),
            d.praises(set(split)),
            tuple(split[:SAMPLE_WORDS]),
        )


class _Counts:
    """Documents and tokens by a field's values, of which there are a bounded number."""

    def __init__(self) -> None:
        self.documents: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()

    def add(self, key: str, tokens: int) -> None:
        if key not in self.documents and len(self.documents) >= KINDS:
            key = "(others)"
        self.documents[key] += 1
        self.tokens[key] += tokens

    def rows(self) -> list[dict[str, Any]]:
        return [
            {"name": key, "documents": n, "tokens": self.tokens[key]}
            for key, n in sorted(self.documents.items(), key=lambda item: (-item[1], item[0]))
        ]


class Statistics:
    """The measures of a corpus, added up."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.documents = 0
        self.lengths: dict[str, list[int]] = {"tokens": [], "words": [], "characters": []}  # 24 bytes a document
        self.by = {key: _Counts() for key in ("section", "domain", "subdomain", "document_type", "persona")}
        self.found: Counter[str] = Counter()  # detector → findings
        self.documents_with: Counter[str] = Counter()  # detector → documents
        self.examples: dict[str, list[Finding]] = {}
        self.lay = 0
        self.names, self.openings = Frequent(), Frequent()
        self.praise, self.praise_by_cell = Praise(), dict[str, Praise]()
        self._best: list[tuple[tuple[int, str], Measure]] = []
        self._worst: list[tuple[tuple[int, str], Measure]] = []
        self._sample: list[tuple[int, str, tuple[str, ...]]] = []

    def add(self, m: Measure) -> None:
        d = m.document
        self.documents += 1
        self.lay += d.lay
        for key, value in (("tokens", m.tokens), ("words", m.words), ("characters", m.characters)):
            self.lengths[key].append(value)
        for section in set(d.sections):
            self.by["section"].add(section, m.tokens)
        for key in ("domain", "document_type", "persona"):
            self.by[key].add(getattr(d, key) or "–", m.tokens)
        self.by["subdomain"].add(f"{d.domain or '–'} · {d.subdomain or '–'}", m.tokens)
        self.note(m.findings)
        self.names.add(sorted(m.names))
        self.openings.add([m.opening] if m.opening else [])
        self.praise.add(*m.praise)
        if d.cell in self.praise_by_cell or len(self.praise_by_cell) < KINDS:
            self.praise_by_cell.setdefault(d.cell, Praise()).add(*m.praise)
        self._show(m)

    def note(self, findings: Iterable[Finding]) -> None:
        """Counts the findings of one document."""
        findings = list(findings)
        for finding in findings:
            self.found[finding.detector] += 1
            kept = self.examples.setdefault(finding.detector, [])
            if len(kept) < EXAMPLES:
                kept.append(finding)
        for detector in {finding.detector for finding in findings}:
            self.documents_with[detector] += 1

    def _show(self, m: Measure) -> None:
        """Keeps the documents with most and fewest findings, and the words of a sample; chance breaks ties."""
        drawn = ticket(m.document.id, self.seed)
        for kept, rank in ((self._best, len(m.findings)), (self._worst, -len(m.findings))):
            kept.append(((rank, drawn), m))
            kept.sort(key=lambda entry: entry[0])
            del kept[SHOWN:]
        entry = (-int(drawn, 16), drawn, m.first)
        if len(self._sample) < SAMPLE:
            heapq.heappush(self._sample, entry)
        elif entry > self._sample[0]:
            heapq.heapreplace(self._sample, entry)

    @property
    def best(self) -> list[Measure]:
        return [m for _, m in self._best]

    @property
    def worst(self) -> list[Measure]:
        """With at least one finding."""
        return [m for (rank, _), m in self._worst if rank < 0]

    def share(self, detector: str) -> float:
        """Of the documents with a finding; of `insider` among the lay authors' documents."""
        return self.documents_with[detector] / max(self.lay if detector == "insider" else self.documents, 1)

    def length(self, unit: str = "tokens") -> dict[str, Any]:
        """total, mean, quantiles and a histogram {edges, counts}."""
        values = np.array(self.lengths[unit], np.int64)
        if not len(values):
            return {"total": 0, "mean": 0.0, "quantiles": {}, "histogram": {"edges": [], "counts": []}}
        # A giant among the documents would leave one bar: it is counted in the last one.
        high = max(float(np.quantile(values, 0.995)) * 1.1, 1.0)
        counts, edges = np.histogram(np.minimum(values, high), BINS, (0.0, high))
        return {
            "total": int(values.sum()),
            "mean": round(float(values.mean()), 1),
            "quantiles": {f"{q:g}": round(float(np.quantile(values, q))) for q in QUANTILES},
            "histogram": {"edges": [round(float(e), 1) for e in edges], "counts": counts.tolist()},
        }

    def variety(self) -> dict[str, Any]:
        """Of a sample of documents, the first words of each, so that corpora of any size compare.

        distinct: share of different ones among all runs of 1, 2, 3 words of the sample. type_token: different words in
        100 running ones, averaged over all windows (moving-average type-token ratio, Covington and McFall 2010).
        """
        texts = [first for _, _, first in sorted(self._sample, key=lambda entry: entry[1])]
        distinct = {}
        for n in (1, 2, 3):
            runs = np.concatenate([words.ngrams(text, n) for text in texts] or [np.zeros(0, np.uint64)])
            distinct[str(n)] = round(len(np.unique(runs)) / max(len(runs), 1), 4)
        ratios = [ratio for text in texts for ratio in moving_type_token(text, _WINDOW)]
        return {
            "documents": len(texts),
            "words": sum(map(len, texts)),
            "distinct": distinct,
            "type_token": round(float(np.mean(ratios)), 4) if ratios else None,
        }


def moving_type_token(text: tuple[str, ...], window: int) -> list[float]:
    """Different words among each `window` running ones, as a share."""
    if len(text) < window:
        return []
    counts = Counter(text[:window])
    ratios = [len(counts) / window]
    for old, new in zip(text, text[window:], strict=False):
        counts[old] -= 1
        if not counts[old]:
            del counts[old]
        counts[new] += 1
        ratios.append(len(counts) / window)
    return ratios


def rejects(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """total, and {stage, reason, documents} by stage and first line of the reason; rare reasons may go uncounted."""
    total, reasons = 0, Frequent(KINDS)
    for row in rows:
        total += 1
        stage, reason = (str(row.get(key) or "–").split("\n")[0][:120] for key in ("stage", "reason"))
        reasons.add([f"{stage}\n{reason}"])
    table = [dict(zip(("stage", "reason"), key.split("\n"), strict=True)) | {"count": n}
             for key, n in reasons.most_common(100)]  # fmt: skip
    return {"total": total, "reasons": table}


def ledger(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """By stage and model: attempts, tokens and USD."""
    stages: dict[tuple[str, str], Counter[str]] = {}
    costs: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        key = (str(row.get("stage") or "–")[:60], str(row.get("model") or "–")[:80])
        if key not in stages and len(stages) >= KINDS:
            key = ("(others)", "–")
        usage = row["usage"] if isinstance(row.get("usage"), dict) else row
        counts = stages.setdefault(key, Counter())
        counts["attempts"] += 1
        for kind in ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output"):
            counts[kind] += _number(usage.get(kind))
        costs.setdefault(key, [0.0])[0] += _number(row.get("cost_usd", row.get("cost")))
    return [
        {"stage": stage, "model": model, **counts, "cost_usd": round(costs[stage, model][0], 6)}
        for (stage, model), counts in sorted(stages.items())
    ]


def _number(value: Any) -> Any:
    return value if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15 else 0


def planned(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Nodes of the plan by kind, and ideas (or what the plan's deepest nodes are) by section."""
    kinds, sections = Counter[str](), Counter[str]()
    for row in rows:
        kind = str(row.get("kind") or "–")[:40]
        kinds[kind if kind in kinds or len(kinds) < KINDS else "(others)"] += 1
        named = row.get("sections")
        for section in named if isinstance(named, list) else ():
            if isinstance(section, str) and (section in sections or len(sections) < KINDS):
                sections[section[:200]] += kind == "idea"
    return {"kinds": dict(sorted(kinds.items())), "sections": dict(sorted(sections.items()))}


def coverage(statistics: Statistics, known: dict[str, str], plan: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a section {id, title, documents, tokens, planned, known}: the spec's in their order, then others named.

    Args:
      known: the spec's section ids → titles; may be empty.
      plan: what `planned` returned.
    """
    counts = statistics.by["section"]
    rest = sorted((set(plan["sections"]) | set(counts.documents)) - known.keys())
    return [
        {
            "id": section,
            "title": known.get(section, ""),
            "documents": counts.documents[section],
            "tokens": counts.tokens[section],
            "planned": plan["sections"].get(section, 0),
            "known": section in known or not known,
        }
        for section in [*known, *rest]
    ]

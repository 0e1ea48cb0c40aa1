"""What a phase will ask, how many tokens that is, and what it costs; from measured requests where there are any.

A stage's requests follow from the counts. Until something was measured, tokens are what the configuration expects and a
quarter of the characters; afterwards they are the means of that stage's own ledger, rejected replies included.
"""

import dataclasses
import datetime
from collections.abc import Iterable, Mapping
from typing import Any

from data_gen.api.prices import Prices
from data_gen.api.request import Usage
from data_gen.outline import Counts, Limits

CHARACTERS_PER_TOKEN = 4.0  # English, by the tokenizers of current models; the probe measures it


@dataclasses.dataclass(frozen=True)
class Expected:
    """Of one stage: who answers, how, and what a request is expected to hold. system: characters; the rest tokens."""

    model: str
    batch: bool
    system: int
    user: int
    output: int
    cacheable: bool


@dataclasses.dataclass(frozen=True)
class Way:
    """Totals over answered requests of one stage that went one way, directly or through batches."""

    requests: int = 0
    usage: Usage = dataclasses.field(default_factory=Usage)
    cost: float = 0.0

    def __add__(self, other: "Way") -> "Way":
        return Way(self.requests + other.requests, _sum(self.usage, other.usage), self.cost + other.cost)

    def next(self) -> Usage:
        """What another request is expected to use: the mean, but the first prompt of a cache is written only once."""
        usage, n = self.usage, self.requests
        written = usage.cache_write_5m + usage.cache_write_1h
        once = min(written, round((usage.cache_read + written) / n))  # one prompt's cacheable tokens
        mean = _scaled(usage, 1 / n)
        if n < 2 or not once:
            return dataclasses.replace(mean, cache_read=mean.prompt - mean.input, cache_write_5m=0, cache_write_1h=0)
        missed = (written - once) / (usage.cache_read + written - once)
        cacheable = mean.prompt - mean.input
        again = round(cacheable * missed)
        return dataclasses.replace(mean, cache_read=cacheable - again, cache_write_5m=0, cache_write_1h=again)


@dataclasses.dataclass(frozen=True)
class Measured:
    """Of one stage so far: nodes asked for, and what their questions used."""

    nodes: int = 0
    direct: Way = dataclasses.field(default_factory=Way)
    batch: Way = dataclasses.field(default_factory=Way)

    @property
    def all(self) -> Way:
        return self.direct + self.batch


@dataclasses.dataclass(frozen=True)
class Row:
    """requests, tokens and usd: of the phase, what is done already included. basis: how the figures were come by."""

    stage: str
    model: str
    batch: bool
    nodes: int
    requests: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    usd: float
    basis: str


def nodes_of(counts: Counts, rules: int, variants: int, limits: Limits) -> dict[str, int]:
    """How many nodes each stage asks for, under a phase's limits. rules: number of a spec's rules, 0 for prose."""

    def some(count: int, limit: int) -> int:
        return min(count, limit or count)

    if rules:  # spread over the domains as evenly as can be
        sizes = [rules // counts.domains + (i < rules % counts.domains) for i in range(counts.domains)]
        topics = sum(some(size, limits.topics) for size in sizes)
    else:
        topics = counts.domains * some(counts.topics, limits.topics)
    kinds = topics * some(counts.kinds, limits.kinds)
    nodes = {"domains": 1, "types": topics, "ideas": kinds}
    if not rules:
        nodes |= {"subdomains": counts.domains, "assertions": topics * variants}
    return nodes | {"documents": kinds * some(counts.ideas, limits.ideas) * variants}


def project(
    nodes: Mapping[str, int],
    rounds: Mapping[str, int],
    expected: Mapping[str, Expected],
    measured: Mapping[str, Measured],
    prices: Prices,
    batch_hits: float,
    day: datetime.date,
) -> list[Row]:
    """A row a stage. nodes: wanted in all; rounds: questions a node needs; batch_hits: config.batch_cache_hits."""
    rows = []
    for stage, wanted in nodes.items():
        want, have = expected[stage], measured.get(stage)
        so_far = have.all if have else Way()
        left = wanted - min(have.nodes, wanted) if have else wanted
        if have and so_far.requests:
            per_node = so_far.requests / have.nodes
            same = have.batch if want.batch else have.direct
            mean = (same if same.requests else so_far).next()
            each = prices.price(want.model, mean, want.batch, day)
            basis = f"measured on {so_far.requests}"
        else:
            per_node = float(rounds[stage])
            first, mean = _assumed(want, prices, batch_hits)
            each = prices.price(want.model, mean, want.batch, day)
            basis = "assumed"
            if wanted:  # the one that fills the cache
                each += (prices.price(want.model, first, want.batch, day) - each) / max(wanted * per_node, 1)
        more = round(left * per_node)
        total = _sum(so_far.usage, _scaled(mean, more))
        usd = so_far.cost + more * each
        rows.append(
            Row(
                stage,
                want.model,
                want.batch,
                wanted,
                so_far.requests + more,
                total.prompt,
                total.cache_read,
                total.output,
                usd,
                basis,
            )
        )
    return rows


def _assumed(want: Expected, prices: Prices, batch_hits: float) -> tuple[Usage, Usage]:
    """Usage of the request that fills the cache, and of those after it."""
    system, user = round(want.system / CHARACTERS_PER_TOKEN), want.user
    least = prices.terms(want.model).min_cache_tokens
    if not (want.cacheable and least) or system < least:
        plain = Usage(input=system + user, output=want.output)
        return plain, plain
    hits = batch_hits if want.batch else 1.0
    read = round(system * hits)
    first = Usage(input=user, cache_write_1h=system, output=want.output)
    return first, Usage(input=user, cache_read=read, cache_write_1h=system - read, output=want.output)


def _scaled(usage: Usage, by: float) -> Usage:
    return Usage(**{name: round(value * by) for name, value in dataclasses.asdict(usage).items()})


def _sum(a: Usage, b: Usage) -> Usage:
    other = dataclasses.asdict(b)
    return Usage(**{name: value + other[name] for name, value in dataclasses.asdict(a).items()})


def table(rows: list[Row], spent: float) -> str:
    """The projection as text; the last line sums up."""
    lines = [
        f"{'stage':<11} {'model':<20} {'way':<7} {'nodes':>7} {'requests':>9} {'prompt':>13} {'cached':>13} "
        f"{'output':>12} {'USD':>10}  basis"
    ]
    for row in rows:
        lines.append(
            f"{row.stage:<11} {row.model:<20.20} {'batch' if row.batch else 'direct':<7} {row.nodes:>7,} "
            f"{row.requests:>9,} {row.prompt_tokens:>13,} {row.cached_tokens:>13,} {row.output_tokens:>12,} "
            f"{row.usd:>10,.2f}  {row.basis}"
        )
    lines.append(
        f"{'all':<11} {'':<20} {'':<7} {'':>7} {sum(r.requests for r in rows):>9,} "
        f"{sum(r.prompt_tokens for r in rows):>13,} {sum(r.cached_tokens for r in rows):>13,} "
        f"{sum(r.output_tokens for r in rows):>12,} {sum(r.usd for r in rows):>10,.2f}  {spent:,.2f} of it spent"
    )
    return "\n".join(lines)


def measure(ledger: Iterable[Mapping[str, Any]]) -> dict[str, Measured]:
    """Stage → what was measured so far. A node's first question has a key that ends in 0 (see data_gen.work)."""
    found: dict[str, Measured] = {}
    for row in ledger:
        if row["outcome"] != "answered":
            continue
        have = found.get(row["stage"], Measured())
        first = row["key"].endswith(("_r0", "_a0")) or "_" not in row["key"]  # a judge is asked once
        usage = Usage(**{field.name: row[field.name] for field in dataclasses.fields(Usage)})
        way = "batch" if row["mode"] == "batch" else "direct"
        more = getattr(have, way) + Way(1, usage, row["cost"])
        found[row["stage"]] = dataclasses.replace(have, nodes=have.nodes + first, **{way: more})
    return found

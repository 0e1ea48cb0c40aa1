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
class Measured:
    """Of one stage so far: nodes asked for, and totals over all their answered requests."""

    nodes: int
    requests: int
    batched: int  # of the requests
    usage: Usage
    cost: float


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
        done = min(have.nodes, wanted) if have else 0
        left = wanted - done
        if have and have.requests >= 1:
            per_node = have.requests / have.nodes
            mean = _scaled(have.usage, 1 / have.requests)
            each = have.cost / have.requests
            if want.batch != (have.batched * 2 > have.requests):
                each *= prices.terms(want.model, mean.prompt, day).batch ** (1 if want.batch else -1)
            basis = f"measured on {have.requests}"
        else:
            per_node = float(rounds[stage])
            first, mean = _assumed(want, prices, batch_hits)
            each = prices.price(want.model, mean, want.batch, day)
            basis = "assumed"
            if wanted:  # the one that fills the cache
                each += (prices.price(want.model, first, want.batch, day) - each) / max(wanted * per_node, 1)
        requests = (have.requests if have else 0) + round(left * per_node)
        more = requests - (have.requests if have else 0)
        total = _sum(have.usage if have else Usage(), _scaled(mean, more))
        usd = (have.cost if have else 0.0) + more * each
        rows.append(
            Row(
                stage,
                want.model,
                want.batch,
                wanted,
                requests,
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
        have = found.get(row["stage"], Measured(0, 0, 0, Usage(), 0.0))
        first = row["key"].endswith(("_r0", "_a0")) or "_" not in row["key"]  # a judge is asked once
        usage = Usage(**{field.name: row[field.name] for field in dataclasses.fields(Usage)})
        found[row["stage"]] = Measured(
            have.nodes + first,
            have.requests + 1,
            have.batched + (row["mode"] == "batch"),
            _sum(have.usage, usage),
            have.cost + row["cost"],
        )
    return found

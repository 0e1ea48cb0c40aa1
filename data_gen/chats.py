"""A Model Spec becomes chats: domains → questions, without repeats → responses with reasoning → a judge's verdicts.

    python -m data_gen.chats --config=configs/data/chats.py --preview     # what it would ask and cost
    python -m data_gen.chats --config=configs/data/chats.py --config.phase=probe

What does not pass is made up for by further rounds of questions, as many as the measured pass rate asks for, until the
target is met exactly. Everything paid for is in the work directory at once: killed at any moment, the same command goes
on from there. Phases and approval are those of data_gen.documents. The full phase ends in an artefact: chats-cot.jsonl
and chats.jsonl (the same chats row by row, with their thoughts and without), .parquet of both, subsets/,
questions.jsonl, rejects.jsonl, plan.jsonl, ledger.jsonl, cost.json, report/, manifest.json.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

from data_gen import chat_artefact, phases, projection
from data_gen.api import providers
from data_gen.api.client import Client
from data_gen.api.provider import Provider
from data_gen.api.request import Reply
from data_gen.api.store import Store
from data_gen.chat_plan import Question
from data_gen.chatting import Chatting
from data_gen.corpus import embed
from data_gen.reading import Rejected
from data_gen.rounds import Repeats, Rounds
from data_gen.work import settle
from msm_jax import cli
from msm_jax.cli import UserError


def main(argv: list[str]) -> None:
    preview = "--preview" in argv
    config = cli.parse_config([arg for arg in argv if arg != "--preview"])
    made = Chatting.of(config)
    job = chat_artefact.begin(made) if config.phase == "full" else None
    if config.phase == "full" and job is None and not preview:
        return
    work = phases.directory(made)
    if preview:
        phases.preview(made, work, _about(made), "responses")
        return
    repeats = Repeats(embed.open_encoder(config.encoder), config.threshold)
    provider = providers.open_provider(config.api, made.prices)
    with phases.open_store(made, work) as store:
        run = made.run_of(config.phase, store.answer, repeats)
        before = phases.project(made, store, config.phase)
        phases.check_money(made, store, before)
        asyncio.run(_ask(made, run, provider, store))
        summary = chat_artefact.summary(made, run) | {"yields": _yields(run, store)}

        def write(directory: Path) -> None:
            chat_artefact.write_rows(made, run, store, directory)
            leaks = chat_artefact.report(made, summary, directory, directory)
            if leaks:
                cli.warn(f"{directory}: {leaks} chats hold text of evaluations")

        phases.finish(made, store, work, before, summary, "responses", write)
        if job:
            chat_artefact.write(made, run, summary, store, job, work, before)


def _about(made: Chatting) -> list[str]:
    one = made.spec
    parts = f"{len(one.rules)} rules" if one.rules else f"{len(one.sections)} sections"
    lines = [f"spec {one.name} ({one.path}): {len(one.text.split())} words, {parts}, sha256 {one.sha256[:12]}"]
    wanted = f"{made.config.target:,} chats" if made.config.target else "all chats that pass"
    lines.append(f"{wanted} in style {made.style}, judged by {', '.join(made.criteria)}")
    if made.style == "preferences":
        lines += [f"  {domain.id} {domain.taste}" for domain in made.domains]
    return lines


async def _ask(made: Chatting, run: Rounds, provider: Provider, store: Store) -> None:
    config = made.config
    client = providers.open_client(config.api, provider, made.prices, store)
    pilot = store.value("phase/pilot") if config.phase == "full" else None
    watched = pilot["yields"] if pilot and config.api.yield_fraction else {}
    batched = made.batched(config.phase)
    asking = made.asking()
    by_id: dict[str, Question] = {}

    def begins(stage: str) -> None:
        client.budget.expect(watched.get(stage, 0.0))
        by_id.clear()
        by_id.update({question.id: question for question in run.current})

    def heard(stage: str, reply: Reply) -> None:
        if stage == "questions":
            return
        try:
            if stage == "responses":
                asking.read(reply, by_id[reply.key.split("_")[1]])
                client.budget.kept(1)
            else:
                client.budget.kept(int(asking.judged(reply).passes))
        except Rejected:
            client.budget.kept(0)

    def given_up(stage: str, lost: dict[str, str]) -> None:
        reasons = list(lost.values())
        most = max(set(reasons), key=reasons.count)
        cli.warn(f"{stage}: {len(lost)} questions got no answer ({most}); run again to retry")

    try:
        if not made.domains:
            await _domains(made, client, store, given_up)
        await run.run(client, batched, config.tries, heard, given_up, begins)
    finally:
        await client.close()


def _yields(run: Rounds, store: Store) -> dict[str, float]:
    """Per dollar: responses that can be read, and verdicts that let pass."""
    made = {"responses": sum(one.read for one in run.done), "verdicts": run.passed}
    costs = {stage: measured.all.cost for stage, measured in projection.measure(store.ledger()).items()}
    return {stage: count / costs[stage] for stage, count in made.items() if costs.get(stage)}


async def _domains(
    made: Chatting, client: Client, store: Store, given_up: Callable[[str, dict[str, str]], None]
) -> None:
    """Raises UserError where none could be read."""
    listing = made.plan().domains()
    lost = await settle(client, store.answer, lambda: [listing], False, made.config.tries, "domains")
    if lost:
        given_up("domains", lost)
    if not made.each_domain(store.answer):
        why = "; ".join(listing.replay(store.answer).rejects) or "no answer"
        raise UserError(f"domains: none could be read ({why}); nothing else was asked")


if __name__ == "__main__":
    cli.entry(main)

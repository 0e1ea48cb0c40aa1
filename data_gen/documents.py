"""A Model Spec becomes a corpus of documents: domains → subdomains → assertions → document types → ideas → documents.

    python -m data_gen.documents --config=configs/data/documents.py --preview     # what it would ask and cost
    python -m data_gen.documents --config=configs/data/documents.py --config.phase=probe

A phase (probe, pilot, full) goes on with so many children of each node; what one phase asked, the next does not ask
again. Everything paid for is in the work directory at once: killed at any moment, the same command goes on from
there, and with higher counts it asks for what is missing only. The full phase ends in an artefact: documents.jsonl and
.parquet, rejects.jsonl, plan.jsonl, ledger.jsonl, cost.json, report/, manifest.json.
"""

import asyncio
import contextlib
import dataclasses
import functools
from pathlib import Path

from data_gen import corpus_artefact, judging, phases, reading, stages
from data_gen.api import providers
from data_gen.api.request import Reply
from data_gen.api.store import Store
from data_gen.generation import Generation
from data_gen.outline import Outline
from data_gen.projection import Row
from data_gen.spec import Spec
from msm_jax import cli
from msm_jax.cli import UserError


def main(argv: list[str]) -> None:
    preview = "--preview" in argv
    config = cli.parse_config([arg for arg in argv if arg != "--preview"])
    made = Generation.of(config)
    corpus_artefact.check_settings(made)
    job = corpus_artefact.begin(made) if config.phase == "full" else None
    if config.phase == "full" and job is None and not preview:
        return
    work = phases.directory(made)
    if preview:
        phases.preview(made, work, [_about(one) for one in made.specs], "documents")
        return
    providers.check(config.api, made.prices)
    with phases.open_store(made, work) as store:
        outline = made.outline(store.answer)
        before = phases.project(made, store, config.phase)
        phases.check_money(made, store, before)
        asyncio.run(_ask(made, outline, store))
        if job:
            judge = functools.partial(judging.judge, made, store)
            corpus_artefact.write(made, outline, judge, store, job, work, before)
        _finish_phase(made, outline, store, work, before)


def _about(spec: Spec) -> str:
    parts = f"{len(spec.rules)} rules" if spec.rules else f"{len(spec.sections)} sections"
    return f"spec {spec.name} ({spec.path}): {len(spec.text.split())} words, {parts}, sha256 {spec.sha256[:12]}"


async def _ask(made: Generation, outline: Outline, store: Store) -> None:
    config, phase = made.config, made.config.phase
    provider = providers.open_provider(config.api, made.prices)
    client = providers.open_client(config.api, provider, made.prices, store)
    pilot = store.value("phase/pilot") if phase == "full" else None

    def heard(stage: str, reply: Reply) -> None:
        if stage == "documents":
            client.budget.kept(int(_good(reply, config.min_characters)))

    try:
        limits, batched = made.limits[phase], made.batched(phase)
        run = stages.run(outline, client, limits, batched, config.tries, config.min_characters, heard)
        async with contextlib.aclosing(run):
            async for stage, given_up in run:
                if given_up:
                    cli.warn(
                        f"{stage}: {len(given_up)} questions got no answer ({_most(given_up)}); run again to retry"
                    )
                if stage == "domains" and not any(True for _ in outline.each_domain()):
                    why = "; ".join(outline.domains().replay(outline.answers).rejects) or _most(given_up)
                    raise UserError(f"domains: none could be read ({why}); nothing else was asked")
                if stage == "ideas" and pilot and pilot["kept_per_usd"] and config.api.yield_fraction:
                    client.budget.expect(pilot["kept_per_usd"])
    finally:
        await client.close()


def _good(reply: Reply, least: int) -> bool:
    try:
        reading.document_of(reply, least)
    except reading.Rejected:
        return False
    return True


def _most(given_up: dict[str, str]) -> str:
    reasons = list(given_up.values())
    return max(set(reasons), key=reasons.count) if reasons else "no answer"


def _finish_phase(made: Generation, outline: Outline, store: Store, work: Path, before: list[Row]) -> None:
    limits = made.limits[made.config.phase]
    summary = corpus_artefact.summary(made, outline, limits)
    about = {"counts": dataclasses.asdict(made.counts), "limits": dataclasses.asdict(limits), **summary}

    def write(directory: Path) -> None:
        corpus_artefact.write_documents(made, outline, limits, directory)
        judging.judge(made, store, directory)
        corpus_artefact.write_ledger(store, directory)
        failed = corpus_artefact.report(made, directory, directory)
        if failed:
            cli.warn(f"{directory}: these documents would fail {len(failed)} gates: {'; '.join(failed)}")

    phases.finish(made, store, work, before, about, "documents", write)


if __name__ == "__main__":
    cli.entry(main)

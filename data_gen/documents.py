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
import datetime
import functools
import json
from pathlib import Path
from typing import Any

from data_gen import corpus_artefact, judging, projection, reading, stages
from data_gen.api import providers
from data_gen.api.request import Reply
from data_gen.api.store import Store
from data_gen.generation import PHASES, Generation
from data_gen.outline import Outline
from data_gen.projection import Row
from msm_jax import artifact, cli, storage
from msm_jax.cli import UserError

STORE, IDENTITY = "answers.sqlite", "work.json"


def main(argv: list[str]) -> None:
    preview = "--preview" in argv
    config = cli.parse_config([arg for arg in argv if arg != "--preview"])
    made = Generation.of(config)
    corpus_artefact.check_settings(made)
    job = corpus_artefact.begin(made) if config.phase == "full" else None
    if config.phase == "full" and job is None and not preview:
        return
    work = Path(config.work or f"{config.out}.work")
    _check_identity(work, made)
    if preview:
        _preview(made, work)
        return
    providers.check(config.api, made.prices)
    work.mkdir(parents=True, exist_ok=True)
    storage.write_atomic(work / IDENTITY, json.dumps(made.identity(), indent=1))
    with Store(work / STORE) as store:
        outline = made.outline(store.answer)
        before = _project(made, outline, store, config.phase)
        _check_money(made, store, before)
        asyncio.run(_ask(made, outline, store))
        if job:
            judge = functools.partial(judging.judge, made, store)
            corpus_artefact.write(made, outline, judge, store, job, work, before)
        else:
            _write_phase(made, outline, store, work / config.phase)
        _finish_phase(made, outline, store, work, before)


# ---------------------------------------------------------------- before anything is asked


def _check_identity(work: Path, made: Generation) -> None:
    """Raises UserError where the directory's answers are to other questions."""
    if not (work / IDENTITY).is_file():
        if work.is_dir() and any(work.iterdir()):
            raise UserError(f"{work}: not empty and no {IDENTITY}; name another directory by --config.work")
        return
    try:
        found = json.loads((work / IDENTITY).read_text())
    except ValueError as error:
        raise UserError(f"{work / IDENTITY}: damaged; name another directory by --config.work") from error
    wanted = json.loads(json.dumps(made.identity()))
    odd = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
    if odd:
        raise UserError(
            f"{work}: its answers are to other questions (different {', '.join(odd)}); restore that, or name another "
            "directory by --config.work"
        )


def _project(made: Generation, outline: Outline, store: Store | None, phase: str) -> list[Row]:
    measured = projection.measure(store.ledger()) if store else {}
    day = datetime.datetime.now(datetime.UTC).date()
    expected, hits = made.expected(phase, outline), made.config.batch_cache_hits
    return projection.project(made.nodes(phase), made.rounds(), expected, measured, made.prices, hits, day)


def _spent(rows: list[Row]) -> float:
    return sum(row.usd for row in rows)


def _preview(made: Generation, work: Path) -> None:
    """The plan and what each phase costs, on stdout. Asks nobody and changes nothing."""
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(Store(work / STORE)) if (work / STORE).is_file() else None
        outline = made.outline(store.answer if store else lambda key: None)
        spent = store.money()[0] if store else 0.0
        for one in made.specs:
            parts = f"{len(one.rules)} rules" if one.rules else f"{len(one.sections)} sections"
            print(f"spec {one.name} ({one.path}): {len(one.text.split())} words, {parts}, sha256 {one.sha256[:12]}")
        print(f"prices of {made.prices.date} ({made.prices.path}): check them\n")
        for phase in PHASES:
            rows = _project(made, outline, store, phase)
            nodes = made.nodes(phase)
            print(f"{phase}: {nodes['documents']:,} documents\n{projection.table(rows, spent)}\n")
        for name in made.stages:
            want = made.expected("full", outline)[name]
            least = made.prices.terms(want.model).min_cache_tokens
            tokens = round(want.system / projection.CHARACTERS_PER_TOKEN)
            if want.cacheable and tokens < least:
                print(f"{name}: not cached, {want.model} caches from {least:,} tokens and this has about {tokens:,}")


def _check_money(made: Generation, store: Store, rows: list[Row]) -> None:
    """Raises UserError where the phase costs something and nobody said how much it may cost, or approved it."""
    config, phase = made.config, made.config.phase
    projected, spent = _spent(rows), store.money()[0]
    if projected > 0 and not config.api.cap_usd:
        raise UserError(
            f"config.api.cap_usd: not set, and the {phase} is projected to cost {projected:.2f} USD; look at "
            "--preview, then say how much may be spent in all"
        )
    if projected - spent <= config.api.ask_above_usd or phase == "probe":
        return
    last = PHASES[PHASES.index(phase) - 1]
    report = store.value(f"phase/{last}")
    if report is None:
        raise UserError(
            f"config.phase = {phase}: projected to cost {projected - spent:.2f} USD more, above "
            f"config.api.ask_above_usd; run --config.phase={last} first and look at what it made"
        )
    if config.approve != report["approve"]:
        given = (
            f"config.approve = {config.approve!r} is not the {last}'s"
            if config.approve
            else f"the {last} is not approved"
        )
        raise UserError(
            f"{given}: the {phase} is projected to cost {projected - spent:.2f} USD more; look at what the {last} "
            "made, then pass the --config.approve=… that it printed at its end"
        )


# ---------------------------------------------------------------- asking


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


# ---------------------------------------------------------------- the end of a phase


def _write_phase(made: Generation, outline: Outline, store: Store, directory: Path) -> None:
    """What a probe or a pilot made, to be read before it is approved."""
    directory.mkdir(exist_ok=True)
    corpus_artefact.write_documents(made, outline, made.limits[made.config.phase], directory)
    judging.judge(made, store, directory)
    corpus_artefact.write_ledger(store, directory)
    failed = corpus_artefact.report(made, directory, directory)
    if failed:
        cli.warn(f"{directory}: these documents would fail {len(failed)} gates: {'; '.join(failed)}")


def _finish_phase(made: Generation, outline: Outline, store: Store, work: Path, before: list[Row]) -> None:
    """Counts what the phase made, compares its cost with the projection, and says what the next one will cost."""
    phase = made.config.phase
    limits = made.limits[phase]
    summary = corpus_artefact.summary(made, outline, limits)
    cost = projection.measure(store.ledger()).get("documents", projection.Measured()).all.cost
    report: dict[str, Any] = {
        "phase": phase,
        "identity": made.identity(),
        "counts": dataclasses.asdict(made.counts),
        "limits": dataclasses.asdict(limits),
        **summary,
        "kept_per_usd": summary["kept"] / cost if cost else 0.0,
        "projected": [dataclasses.asdict(row) for row in before],
        "spent_usd": store.money()[0],
        "stages": store.totals(),
    }
    report["approve"] = f"{phase}-{artifact.digest(report)[:8]}"
    following = PHASES[PHASES.index(phase) + 1] if phase != "full" else None
    if report["spent_usd"]:
        cli.note(f"{phase}: {_spent(before):.2f} USD were projected, {report['spent_usd']:.2f} are in the ledger")
    if following:
        report["next"] = [dataclasses.asdict(row) for row in _project(made, outline, store, following)]
        storage.write_atomic(work / phase / "phase.json", json.dumps(report, indent=1))
    asyncio.run(_keep(store, f"phase/{phase}", report))
    rejected = f", {summary['rejected']} rejected" if summary["rejected"] else ""
    cli.note(
        f"{phase}: {summary['kept']} of {summary['planned']} documents{rejected}; {report['spent_usd']:.2f} USD spent"
    )
    if following:
        rows = _project(made, outline, store, following)
        cli.note(f"{following} as measured so far:\n{projection.table(rows, report['spent_usd'])}")
        cli.note(f"read {work / phase}; to go on: --config.phase={following} --config.approve={report['approve']}")


async def _keep(store: Store, name: str, value: Any) -> None:
    await store.put(name, value)


if __name__ == "__main__":
    cli.entry(main)

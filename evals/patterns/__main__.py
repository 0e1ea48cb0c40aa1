"""Why models did what they did: reasons in transcripts, extracted, put in categories, classified, counted.

    python -m evals.patterns --config=configs/evals/patterns.py --config.logs=logs --preview
    python -m evals.patterns --config=configs/evals/patterns.py --config.logs=logs --config.phase=probe

Of each transcript and category a language model is asked whether reasons of that kind were a significant driver, and
for the words that show it, which must be in the transcript. The categories are the paper's, or a file's, or made from
reasons that are extracted first. Those that pick out nearly the same transcripts are merged. Some transcripts are
classified again, and codebooks are made anew, to see how far all this can be relied on. Phases, approval and --preview
are those of data_gen.documents: what was paid for is in the work directory at once, and the same command goes on from
there. The full phase ends in an artefact: classified.jsonl, categories.json, summary.md, reasons.jsonl,
policy_misuse.jsonl, ledger.jsonl, manifest.json.
"""

import asyncio
from pathlib import Path

from data_gen import phases
from data_gen.api import providers
from data_gen.api.store import Store
from evals.patterns import results
from evals.patterns.made import Patterns
from evals.patterns.procedure import Procedure
from evals.patterns.reading import VERDICTS
from msm_jax import cli


def main(argv: list[str]) -> None:
    preview = "--preview" in argv
    config = cli.parse_config([arg for arg in argv if arg != "--preview"])
    made = Patterns.of(config)
    job = results.begin(made) if config.phase == "full" and not preview else None
    if config.phase == "full" and job is None and not preview:
        return
    work = phases.directory(made)
    if preview:
        phases.preview(made, work, _about(made), VERDICTS)
        return
    providers.check(config.api, made.prices)
    with phases.open_store(made, work) as store:
        before = phases.project(made, store, config.phase)
        phases.check_money(made, store, before)
        done = Procedure(made, config.phase, store.answer)
        asyncio.run(_ask(made, done, store))
        if job:
            with job:
                job.finish(**results.write(made, done, store, job.tmp))
            cli.note(f"{config.out}: see {results.SUMMARY}")

        def write(directory: Path) -> None:
            results.write(made, done, store, directory)

        kept, planned = done.readings()
        summary = {"kept": kept, "planned": planned, "rejected": planned - kept}
        phases.finish(made, store, work, before, summary, VERDICTS, write)


def _about(made: Patterns) -> list[str]:
    found = made.transcripts
    words = sum(len(one.text.split()) for one in found.rows) // len(found.rows)
    skipped = "".join(f", {count} {reason} left out" for reason, count in found.skipped.items())
    book = f"{len(made.given.categories)} categories of {made.given.name}" if made.given else "a codebook of their own"
    return [f"{len(found.rows):,} transcripts of {found.where}, {words} words each on average{skipped}; {book}"]


async def _ask(made: Patterns, done: Procedure, store: Store) -> None:
    provider = providers.open_provider(made.config.api, made.prices)
    async with providers.open_client(made.config.api, provider, made.prices, store) as client:
        await done.run(client)


if __name__ == "__main__":
    cli.entry(main)

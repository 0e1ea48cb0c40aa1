"""What the commands that ask a language model for a data set share: a work directory, phases, and sign-off for money.

A phase (probe, pilot, full) is what one run of a command does. The work directory holds all answers and says which
questions they are to; a phase that costs more than config.api.ask_above_usd needs the approval of the one before.
"""

import asyncio
import contextlib
import datetime
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from ml_collections import ConfigDict

from data_gen import projection
from data_gen.api.prices import Prices
from data_gen.api.store import Store
from data_gen.projection import Expected, Row
from msm_jax import artifact, cli, storage
from msm_jax.cli import UserError

PHASES = ("probe", "pilot", "full")
PROVIDERS = ("anthropic", "openai", "offline")
STORE, IDENTITY = "answers.sqlite", "work.json"


class Made(Protocol):
    """A data set being made, as its configuration says; config has `phase`, `approve`, `out`, `work`, `api`."""

    @property
    def config(self) -> ConfigDict: ...

    @property
    def prices(self) -> Prices: ...

    def identity(self) -> dict[str, Any]:
        """What a work directory is of: its answers are for these questions and no others."""

    def nodes(self, phase: str) -> dict[str, int]:
        """Stage → nodes that a phase asks for."""

    def rounds(self) -> dict[str, int]:
        """Stage → questions that a node needs."""

    def expected(self, phase: str) -> dict[str, Expected]: ...


def check_settings(config: ConfigDict) -> None:
    """Raises UserError naming the key, of those that all these commands have."""
    if config.phase not in PHASES:
        raise UserError(f"config.phase = {config.phase!r}: must be {', '.join(PHASES[:-1])} or {PHASES[-1]}")
    if config.api.provider not in PROVIDERS:
        raise UserError(
            f"config.api.provider = {config.api.provider!r}: must be {', '.join(PROVIDERS[:-1])} or offline"
        )
    for key in ("cap_usd", "ask_above_usd", "yield_fraction"):
        if not config.api[key] >= 0:
            raise UserError(f"config.api.{key} = {config.api[key]}: must be 0 or more")
    if not config.work and storage.is_remote(config.out):
        raise UserError(f"config.out = {config.out}: name a local directory for the work, as --config.work=runs/work")
    if config.work and storage.is_remote(config.work):
        raise UserError(f"config.work = {config.work}: must be on a local disk; config.out may be in a bucket")


def price_of(api: ConfigDict, model: str) -> str:
    """The price file's entry for a model."""
    return model if api.provider == "anthropic" else "local"


def directory(made: Made) -> Path:
    """The work directory. Raises UserError where its answers are to other questions."""
    work = Path(made.config.work or f"{made.config.out}.work")
    check_identity(work, made.identity())
    return work


def check_identity(work: Path, identity: dict[str, Any]) -> None:
    """Raises UserError where the directory's answers are to other questions, or it is somebody else's."""
    path = work / IDENTITY
    if not path.is_file():
        if work.is_dir() and any(work.iterdir()):
            raise UserError(f"{work}: not empty and no {IDENTITY}; name another directory by --config.work")
        return
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise ValueError
    except ValueError as error:
        raise UserError(f"{path}: damaged; name another directory by --config.work") from error
    wanted = json.loads(json.dumps(identity))
    odd = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
    if odd:
        raise UserError(
            f"{work}: its answers are to other questions (different {', '.join(odd)}); restore that, or name another "
            "directory by --config.work"
        )


def begin_work(work: Path, identity: dict[str, Any]) -> None:
    """The directory is from now on one of answers to these questions."""
    work.mkdir(parents=True, exist_ok=True)
    storage.write_atomic(work / IDENTITY, json.dumps(identity, indent=1))


def open_store(made: Made, work: Path) -> Store:
    """The answers, in a directory that says what they are to."""
    begin_work(work, made.identity())
    return Store(work / STORE)


def check_cap(api: ConfigDict, projected: float, what: str = "this") -> None:
    """Raises UserError where something costs money and nobody said how much it may cost."""
    if projected > 0 and not api.cap_usd:
        raise UserError(
            f"config.api.cap_usd: not set, and {what} is projected to cost {projected:.2f} USD; look at --preview, "
            "then say how much may be spent in all"
        )


def project(made: Made, store: Store | None, phase: str) -> list[Row]:
    measured = projection.measure(store.ledger()) if store else {}
    day = datetime.datetime.now(datetime.UTC).date()
    hits = made.config.batch_cache_hits
    return projection.project(made.nodes(phase), made.rounds(), made.expected(phase), measured, made.prices, hits, day)


def usd(rows: list[Row]) -> float:
    return sum(row.usd for row in rows)


def preview(made: Made, work: Path, about: list[str], stage: str) -> None:
    """The plan and what each phase costs, on stdout. Asks nobody and changes nothing. stage: whose nodes are wanted."""
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(Store(work / STORE)) if (work / STORE).is_file() else None
        spent = store.money()[0] if store else 0.0
        print(*about, sep="\n")
        print(f"prices of {made.prices.date} ({made.prices.path}): check them\n")
        for phase in PHASES:
            rows = project(made, store, phase)
            print(f"{phase}: {made.nodes(phase)[stage]:,} {stage}\n{projection.table(rows, spent)}\n")
        for name, want in made.expected("full").items():
            least = made.prices.terms(want.model).min_cache_tokens
            tokens = round(want.system / projection.CHARACTERS_PER_TOKEN)
            if name in made.nodes("full") and want.cacheable and tokens < least:
                print(f"{name}: not cached, {want.model} caches from {least:,} tokens and this has about {tokens:,}")


def check_money(made: Made, store: Store, rows: list[Row]) -> None:
    """Raises UserError where the phase costs something and nobody said how much it may cost, or approved it."""
    config, phase = made.config, made.config.phase
    projected, spent = usd(rows), store.money()[0]
    check_cap(config.api, projected, f"the {phase}")
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


def finish(
    made: Made,
    store: Store,
    work: Path,
    before: list[Row],
    summary: dict[str, Any],
    stage: str,
    write: Callable[[Path], None],
) -> None:
    """Signs what the phase made, compares its cost with the projection, and says what the next one will cost.

    Args:
      before: the projection before anything was asked.
      summary: `kept`, `planned` and `rejected`, and whatever else is worth keeping.
      stage: what is wanted of it all.
      write: writes what there is into a directory, for somebody to look at; called in the probe and the pilot.
    """
    phase = made.config.phase
    following = PHASES[PHASES.index(phase) + 1] if phase != "full" else None
    if following:  # first, for to judge what was made costs something too
        (work / phase).mkdir(exist_ok=True)
        write(work / phase)
    cost = projection.measure(store.ledger()).get(stage, projection.Measured()).all.cost
    report: dict[str, Any] = {
        "phase": phase,
        "identity": made.identity(),
        **summary,
        "kept_per_usd": summary["kept"] / cost if cost else 0.0,
        "projected": [asdict(row) for row in before],
        "spent_usd": store.money()[0],
        "stages": store.totals(),
    }
    report["approve"] = f"{phase}-{artifact.digest(report)[:8]}"
    if report["spent_usd"]:
        cli.note(f"{phase}: {usd(before):.2f} USD were projected, {report['spent_usd']:.2f} are in the ledger")
    if following:
        report["next"] = [asdict(row) for row in project(made, store, following)]
        storage.write_atomic(work / phase / "phase.json", json.dumps(report, indent=1))

    async def keep() -> None:
        await store.put(f"phase/{phase}", report)

    asyncio.run(keep())
    rejected = f", {summary['rejected']} rejected" if summary["rejected"] else ""
    cli.note(
        f"{phase}: {summary['kept']} of {summary['planned']} {stage}{rejected}; {report['spent_usd']:.2f} USD spent"
    )
    if following:
        rows = project(made, store, following)
        cli.note(f"{following} as measured so far:\n{projection.table(rows, report['spent_usd'])}")
        cli.note(f"read {work / phase}; to go on: --config.phase={following} --config.approve={report['approve']}")

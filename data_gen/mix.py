"""An instruction mix from several datasets, by a recipe: so many rows or tokens of each, filtered, with their origins.

    python -m data_gen.mix --config=configs/data/mix_paper.py --config.tokenizer=Qwen3-32B --preview    # asks nobody
    python -m data_gen.mix --config=configs/data/mix_paper.py --config.tokenizer=Qwen3-32B --config.out=runs/mix

A row is taken if it is a chat that the tokenizer's template takes, is short enough, is there once, falls under no
pattern (data_gen/mixing/conflicts.toml) and the judge finds nothing in it; for each that goes the next one in the
seeded order comes. What free checks can know is known before anything is paid; what was paid for is in the work
directory at once. Output: chats.jsonl, on request chats-no_think.jsonl, rejects.jsonl, card.md, ledger.jsonl where
anything was asked, manifest.json.
"""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from data_gen import phases, projection, prompt
from data_gen.api import providers
from data_gen.api.prices import PRICES, Prices
from data_gen.api.store import Store
from data_gen.chat import ChatPolicy
from data_gen.hf_tokenizer import open_tokenizer
from data_gen.mixing import artefact, conflicts, identity
from data_gen.mixing.identity import Writer
from data_gen.mixing.made import Mix
from data_gen.mixing.patterns import OWN, Patterns
from data_gen.mixing.recipe import Recipe, inputs_of
from data_gen.mixing.sources import Candidate, Desk, Source
from msm_jax import artifact, cli, storage
from msm_jax.cli import UserError

_NOT_RECIPE = ("out", "work", "tokenizer", "approve", "api", "sources", "spec", "patterns")


def main(argv: list[str]) -> None:
    preview = "--preview" in argv
    config = cli.parse_config([arg for arg in argv if arg != "--preview"])
    recipe = Recipe.of(config)
    patterns = Patterns(config.patterns or OWN, (config.model_name, config.provider_name))
    policy = ChatPolicy.from_config(config.chat)
    tokenizer = open_tokenizer(config.tokenizer, config.chat.template, config.document_end)
    prices = Prices(config.api.prices or PRICES)
    files = recipe.files()
    inputs = inputs_of(files) | tokenizer.inputs() | _inputs(recipe)
    job = artifact.begin(config.out, "mix", _settings(recipe), inputs)
    if job is None and not preview:
        return
    desk = Desk(tokenizer, policy, patterns, config.seed)
    sources = {}
    for name in recipe.sizes:
        source = sources[name] = Source(name, recipe.sources[name], config.max_tokens, desk)
        if name in files:
            cli.note(f"reading {name}")
            source.read(files[name], recipe.sources[name]["columns"], dict(recipe.sources[name]["where"]))
    mix = Mix(recipe, sources, desk, _writer(recipe), prices)
    rows = mix.available()
    asks = config.judge.on or bool(recipe.written)
    work = Path(config.work or f"{config.out}.work")
    with contextlib.ExitStack() as stack:
        store = None
        if asks and not preview:
            provider = providers.open_provider(config.api, prices)  # no key is an error before the directory is made
            work.mkdir(parents=True, exist_ok=True)
        if asks and (not preview or (work / phases.STORE).is_file()):
            store = stack.enter_context(Store(work / phases.STORE))
        projected = mix.project(store, mix.to_judge(rows))
        if preview:
            _preview(mix, rows, store, projected)
            return
        if store:
            _check_money(config, store, projected)
            rows = asyncio.run(_ask(mix, provider, store))
        assert job is not None
        with job:
            counts = artefact.write(mix, rows, inputs, store, job)
            job.finish(**counts)
    cli.note(f"{config.out}: {counts['rows']} chats, {counts['tokens']} tokens, {counts['supervised']} supervised")


async def _ask(mix: Mix, provider: Any, store: Store) -> dict[str, list[Candidate]]:
    async with providers.open_client(mix.recipe.config.api, provider, mix.prices, store) as client:
        return await mix.ask(client, store.answer)


def _writer(recipe: Recipe) -> Writer:
    config = recipe.config
    return Writer(
        recipe.spec, config.model_name, config.provider_name, config.identity.model or config.api.model,
        config.identity.max_tokens, config.identity.at_once, config.identity.tries,
    )  # fmt: skip


def _inputs(recipe: Recipe) -> dict[str, dict[str, str]]:
    """Of the artefact's recipe, what is neither a source nor a tokenizer."""
    config = recipe.config
    found = {"patterns": {"kind": "patterns", "id": storage.sha256(config.patterns or OWN)}}
    if recipe.spec_digest:
        found["spec"] = {"kind": "spec", "id": recipe.spec_digest}
    for used, name in ((config.judge.on, conflicts.PROMPT), (recipe.written, identity.PROMPT)):
        if used:
            found[name] = {"kind": "prompt", "id": prompt.load(name).sha256}
    return found


def _settings(recipe: Recipe) -> dict[str, Any]:
    config = recipe.config.to_dict()
    settings = {k: v for k, v in config.items() if k not in _NOT_RECIPE}
    settings["sources"] = {n: {k: v for k, v in s.items() if k != "files"} for n, s in recipe.sources.items()}
    settings["model"] = config["api"]["model"] if recipe.written or config["judge"]["on"] else ""
    del settings["chat"]["template"]  # its content is among the inputs
    for key in ("batch", "batch_cache_hits", "expect_output"):
        del settings["judge"][key]
    return settings


# ---------------------------------------------------------------- money


def _check_money(config: ConfigDict, store: Store, rows: list[projection.Row]) -> None:
    """Raises UserError where it costs something and nobody said how much it may cost, or approved it."""
    projected, spent = sum(row.usd for row in rows), store.money()[0]
    phases.check_cap(config.api, projected)
    if projected > config.api.cap_usd > 0:
        raise UserError(f"config.api.cap_usd = {config.api.cap_usd}: this is projected to cost {projected:.2f} USD")
    if projected - spent > max(config.api.ask_above_usd, config.approve):
        raise UserError(
            f"config.approve: this is projected to cost {projected - spent:.2f} USD more, above "
            f"config.api.ask_above_usd; look at --preview, then pass --config.approve={projected - spent + 1:.0f}"
        )


def _preview(mix: Mix, rows: dict[str, list[Candidate]], store: Store | None, projected: list[projection.Row]) -> None:
    """What would be taken and what it costs, on stdout. Asks nobody and changes nothing."""
    print(f"{'source':<24} {'rows':>7} {'tokens':>10} {'supervised':>10} {'there':>9} {'examined':>9}  left out")
    for name, source in mix.sources.items():
        some = rows.get(name, [])
        wanted = len(some) if name in rows else mix.recipe.sizes[name].rows
        tokens, supervised = sum(row.tokens for row in some), sum(row.supervised for row in some)
        why = ", ".join(f"{count} {reason}" for reason, count in source.reasons().items())
        written = "to be written" if name not in rows else why
        print(
            f"{name:<24.24} {wanted:>7,} {tokens:>10,} {supervised:>10,} {source.available:>9,} {source.examined:>9,}  "
            f"{written}"
        )
    everything = [row for some in rows.values() for row in some]
    print(f"{'all':<24} {len(everything):>7,} {sum(row.tokens for row in everything):>10,} ", end="")
    print(f"{sum(row.supervised for row in everything):>10,}\n")
    if projected:
        print(f"prices of {mix.prices.date} ({mix.prices.path}): check them")
        print(projection.table(projected, store.money()[0] if store else 0.0))


if __name__ == "__main__":
    cli.entry(main)

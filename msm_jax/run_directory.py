"""What a run's directory says of itself, and whether a command may go on in it.

run.json, written first: the recipe (what decides the weights), the ids of all inputs, every setting and all versions of
the latest start. manifest.json, written last, has the same header. A run may only be resumed with what it was started
with, but for two things: stages may be added to the mixture at steps that are still to come, and what config.accept
names may change; such changes are listed in the header, as [step, {key: value before}].
"""

import json
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from msm_jax import artifact, cli, storage
from msm_jax.cli import UserError
from msm_jax.mixture import Mixture
from msm_jax.model.config import ModelConfig
from msm_jax.model.lora import LoraConfig
from msm_jax.ownership import LOCK, OWNER
from msm_jax.pretrained import STATE as STATE
from msm_jax.pretrained import Pretrained, absolute
from msm_jax.starts import continues

MAY_CHANGE = "optim."  # keys that a run can go on with another value of; all others have shaped what is saved
Header = dict[str, Any]


def header_of(
    config: ConfigDict, mixture: Mixture, model: ModelConfig, lora: LoraConfig | None, start: Pretrained | None
) -> Header:
    """Of a run that is started with these."""
    inputs = {f"source{n}": {"kind": "shards", "id": s.manifest["id"]} for n, s in enumerate(mixture.sources)}
    base = None
    if start:
        inputs["init_from"] = {"kind": "model", "id": start.id}
        if lora:
            base = start.base if continues(config, start) else start
            inputs["base"] = {"kind": "model", "id": base.id}
    recipe = {
        "seed": config.seed,
        "init_words": config.init_words,
        "model": model.to_dict(),
        "lora": lora.to_dict() if lora else None,
        "tokenizer": mixture.sources[0].manifest["counts"]["tokenizer"],
        "data": {key: config.data[key] for key in ("weights", "batch_rows", "seed", "stages")},
        "optim": config.optim.to_dict(),
    }
    header = artifact.header_of("run", recipe, inputs)
    if base:
        header["base"] = absolute(base.reference)  # where to find it: not part of the recipe
    return header


def claim(config: ConfigDict, header: Header, step: int) -> Header | None:
    """The header to go on with in config.out, whose newest checkpoint is of `step`; None where the run is finished.

    Raises:
      UserError: the directory holds another run, naming the keys that differ, or something that is not a run.
    """
    out = storage.at(config.out)
    if storage.is_file(out / artifact.MANIFEST):
        found = artifact.read_manifest(out, "run")
        artifact.is_done(out, _with_changes(header, found["config"].get("changes", [])))
        return None
    if storage.is_file(out / STATE):
        try:
            found = json.loads(storage.read_text(out / STATE))
            found["config"], found["inputs"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{out / STATE}: damaged; copy it back, or choose another config.out") from error
        return _resumed(config, out, found, header, step)
    if any(not name.endswith(".tmp") and name not in (LOCK, OWNER) for name in storage.files(out)):
        raise UserError(f"{out}: not empty and not a run; choose another config.out")
    return header


def _with_changes(header: Header, changes: list[Any]) -> Header:
    """The header of a run that has gone through these changes: they are part of its recipe."""
    if not changes:
        return header
    return header | artifact.header_of("run", header["config"] | {"changes": changes}, header["inputs"])


def _resumed(config: ConfigDict, out: epath.Path, found: Header, header: Header, step: int) -> Header:
    there, here = _flat(found), _flat(header)
    different = sorted(key for key in there.keys() | here.keys() if there.get(key) != here.get(key))
    if "data.stages" in different and _appended(there["data.stages"], here["data.stages"], step):
        different.remove("data.stages")
    told = [key for key in different if key in config.accept and key.startswith(MAY_CHANGE)]
    if told != different:
        wrong = [key for key in different if key not in told]
        shown = "; ".join(f"{_named(key)} = {there.get(key)!r} there, {here.get(key)!r} here" for key in wrong[:4])
        mend = "choose another config.out, or the same settings"
        if all(key.startswith(MAY_CHANGE) for key in wrong):
            mend += f'; or change them from step {step} on: --config.accept="{tuple(different)}"'
        elif "data.stages" in wrong:
            mend += f"; stages can be added at the end, from step {step} on"
        raise UserError(f"{out}: an unfinished run of another recipe ({shown}); {mend}")
    changes = found["config"].get("changes", [])
    if told:
        changes = [*changes, [step, {key: there[key] for key in told}]]
    return _with_changes(header, changes)


def _flat(header: Header) -> dict[str, Any]:
    """Dotted keys of a header's recipe, and its inputs' ids."""
    config = {key: value for key, value in header["config"].items() if key != "changes"}
    flat = cli.flatten(ConfigDict(json.loads(json.dumps(config))))
    listed = {key: list(value) if isinstance(value, tuple) else value for key, value in flat.items()}
    return listed | {f"inputs.{name}": entry["id"] for name, entry in header["inputs"].items()}


def _appended(before: list[Any], now: list[Any], step: int) -> bool:
    """Do stages only go on where the past ends?"""
    return now[: len(before)] == before and all(at >= step for at, _ in now[len(before) :])


def _named(key: str) -> str:
    return f"the id of {key.removeprefix('inputs.')}" if key.startswith("inputs.") else f"config.{key}"


def write_state(config: ConfigDict, header: Header) -> None:
    """run.json, with where everything lay and how it was run."""
    state = header | {"settings": config.to_dict(), "versions": artifact.versions()}
    storage.write_atomic(storage.at(config.out) / STATE, json.dumps(state, indent=1))

"""What is evaluated: the checkpoints of runs, and any models that Inspect knows.

`label@seed=address` names an arm and a seed; without it a run's arm is its directory's name, a model's its own name,
and the seed 0. Runs of one label with other seeds are seeds of one arm.
"""

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any

from msm_jax import artifact, storage
from msm_jax.cli import UserError

LABEL = re.compile(r"([A-Za-z0-9][\w.+-]*)(?:@(\d+))?")
RUN_STATE = "run.json"
LOADED_HERE = ("hf", "llama-cpp-python", "msm", "nnterp", "sglang", "transformer_lens", "vllm")  # slow to construct


@dataclasses.dataclass(frozen=True)
class Target:
    """One model to evaluate. run and step are of a checkpoint; else `model` is a name as Inspect takes it."""

    arm: str
    seed: int
    model: str
    run: str = ""
    step: int | None = None

    def __str__(self) -> str:
        seed = f"@{self.seed}" if self.seed else ""
        return f"{self.arm}{seed}" + (f" step {self.step}" if self.step is not None else "")

    @property
    def is_elsewhere(self) -> bool:
        """Behind an API: constructing it costs nothing, and shows whether its key is there."""
        return self.model.split("/")[0] not in LOADED_HERE

    @property
    def directory(self) -> str:
        """Of its logs, below the sweep's. Two targets never share one: plan() sees to that."""
        return f"{self.arm}-{self.seed}/" + ("model" if self.step is None else f"{self.step:08d}")


@dataclasses.dataclass(frozen=True)
class Run:
    arm: str
    seed: int
    address: str


def inspect_model(target: Target, model_args: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """What Inspect's get_model takes: the name and the arguments. The one place that knows how the provider `msm` is
    told a step."""
    if target.step is None:
        return target.model, model_args
    return target.model, model_args | {"step": target.step}


def _named(text: str, key: str) -> tuple[str, int, str]:
    """(label or "", seed, address)."""
    left, equals, address = text.partition("=")
    if not equals:
        return "", 0, text
    found = LABEL.fullmatch(left)
    if not found or not address:
        raise UserError(f"config.{key}: {text!r} is not label@seed=address, as in 'msm@20=gs://bucket/msm-20'")
    return found[1], int(found[2] or 0), address


def runs_of(given: Sequence[str], key: str = "runs") -> list[Run]:
    """Raises UserError: something that is not a directory, or two runs of one label and seed."""
    found: dict[tuple[str, int], Run] = {}
    for text in given:
        label, seed, address = _named(text, key)
        address = address.rstrip("/")
        label = label or re.sub(r"[^\w.+-]+", "-", address.split("/")[-1])
        if (label, seed) in found:
            raise UserError(f"config.{key}: {label}@{seed} is there twice; write label@seed=address")
        if not storage.is_dir(storage.at(address)):
            raise UserError(f"{address}: no such directory (config.{key})")
        found[label, seed] = Run(label, seed, address)
    return list(found.values())


def models_of(given: Sequence[str]) -> list[Target]:
    """Raises UserError: no provider of that name, or two models of one label and seed."""
    found: dict[tuple[str, int], Target] = {}
    for text in given:
        label, seed, name = _named(text, "models")
        check_model(name, "config.models")
        if name.startswith("msm/") and not storage.is_dir(storage.at(name.removeprefix("msm/"))):
            raise UserError(f"config.models: {name.removeprefix('msm/')}: no such directory")
        label = label or re.sub(r"[^\w.+-]+", "-", name.split("/", 1)[1]).strip("-")
        if (label, seed) in found:
            raise UserError(f"config.models: {label}@{seed} is there twice; write label@seed=model")
        found[label, seed] = Target(label, seed, name)
    return list(found.values())


def check_model(name: str, key: str) -> None:
    """Raises UserError where the name is no model's: provider/name with a provider that Inspect or this package has."""
    import inspect_ai.model._providers.providers  # noqa: F401  (registers Inspect's own)
    from inspect_ai._util.registry import registry_lookup

    provider, slash, rest = name.partition("/")
    if not slash or not rest:
        raise UserError(f"{key}: {name!r} is no model; write provider/name, as in anthropic/claude-… or hf/…")
    import evals._registry  # noqa: F401  (registers msm, where this package is not installed)

    if registry_lookup("modelapi", provider) is None:
        raise UserError(f"{key}: Inspect knows no provider {provider!r} (of {name!r})")


def steps_of(run: Run) -> list[int]:
    """Steps of the run's complete checkpoints, in order; [] where there is none (yet)."""
    from msm_jax import checkpoint  # imports JAX

    directory = checkpoint.directory_of(run.address)
    try:
        names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    except FileNotFoundError:  # gone since
        return []
    steps = [int(name) for name in names if name.isdigit()]
    if storage.is_remote(directory):
        steps = [s for s in steps if storage.is_file(directory / str(s) / checkpoint.MARKER)]
    return sorted(steps)


def is_final(run: Run) -> bool:
    """Will there be no further checkpoint?"""
    return artifact.is_finished(run.address)


def is_run(run: Run) -> bool:
    return artifact.is_finished(run.address) or storage.is_file(storage.at(run.address) / RUN_STATE)


def recipe_of(run: Run) -> str:
    """Which run it is: the hash of its recipe."""
    for name in (artifact.MANIFEST, RUN_STATE):
        path = storage.at(run.address) / name
        if storage.is_file(path):
            try:
                return str(json.loads(storage.read_text(path))["recipe"])
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path}: not of ours; copy it back, or name another run") from error
    return ""


def chosen(steps: Sequence[int], every: int, only: Sequence[int]) -> list[int]:
    """Of these steps: those listed in `only`; else those that `every` divides, and the last one."""
    if only:
        return [s for s in steps if s in only]
    return [s for s in steps if s % every == 0 or s == max(steps)]


def checkpoints_of(run: Run, every: int, only: Sequence[int]) -> list[Target]:
    return [
        Target(run.arm, run.seed, f"msm/{run.address}", run.address, step)
        for step in chosen(steps_of(run), every, only)
    ]

"""Which tasks, with which arguments: `name:key=value,key=value` as data.

The name is a task of this package (agentic_misalignment), of another that is installed (inspect_evals/gsm8k), or in a
file (evals/mine.py@task). Keys are the task's own parameters; `epochs` and `limit` go to Inspect where the task has no
parameter of that name. Values are read as YAML: 10, true, dev, [a, b].
"""

import dataclasses
import re
from typing import Any

import yaml
from inspect_ai import Task
from inspect_ai._eval.loader import load_tasks
from inspect_ai._util.error import PrerequisiteError
from inspect_ai._util.registry import registry_find, registry_info, registry_lookup
from inspect_ai.solver import Solver

from msm_jax.cli import UserError

PACKAGE = "msm_jax"
OF_INSPECT = ("epochs", "limit")
COMMA = re.compile(r",(?![^\[]*\])")  # not those within a list


@dataclasses.dataclass(frozen=True)
class Spec:
    """label: as it was written, without blanks. name: as Inspect loads it. args: the task's. epochs, limit: Inspect's,
    None for the task's own."""

    label: str
    name: str
    args: dict[str, Any]
    epochs: int | None = None
    limit: int | None = None

    @property
    def directory(self) -> str:
        return re.sub(r"[^\w.=+-]+", "-", self.label).strip("-.")

    def build(self) -> Task:
        """Anew for every evaluation, which may change it.

        Raises:
          UserError: the task does not take its arguments.
        """
        try:
            (task,) = load_tasks([self.name], self.args)
        except PrerequisiteError as error:
            raise UserError(f"config.tasks: {self.label}: {plain(error)}") from error
        except (TypeError, ValueError, KeyError, FileNotFoundError) as error:
            raise UserError(f"config.tasks: {self.label}: {' '.join(str(error).split())[:300]}") from error
        return task

    def samples(self, task: Task) -> int:
        """How many generations of the model it asks for, repeats included."""
        number = len(task.dataset)
        return min(number, self.limit or number) * (self.epochs or task.epochs or 1)


def plain(error: Exception) -> str:
    """Inspect's message in one line, without its markup."""
    return " ".join(re.sub(r"\[/?[a-z ]+\]", "", str(error)).removeprefix("ERROR: ").split())[:300]


def read_args(text: str, what: str) -> dict[str, Any]:
    """`key=value,key=value` as a dict. Raises UserError."""
    found: dict[str, Any] = {}
    for part in filter(None, (piece.strip() for piece in COMMA.split(text))):
        key, equals, value = part.partition("=")
        if not equals or not key.isidentifier() or key in found:
            raise UserError(f"{what}: {part!r} is not key=value, or is there twice")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"{what}: {part!r}: the value cannot be read") from error
    return found


def parse(text: str) -> Spec:
    """Raises UserError: an unknown task or argument, naming those there are."""
    import evals._registry  # noqa: F401  (registers this package's tasks, where it is not installed)

    label = "".join(text.split())
    name, _, rest = label.partition(":")
    args = read_args(rest, f"config.tasks: {label}")
    takes: list[str] | None = None  # of a task in a file it is known when that is loaded
    if ".py" not in name:
        name = _registered(name)
        takes = list(registry_info(registry_lookup("task", name)).metadata["params"])
    inspects = {key: args.pop(key) for key in OF_INSPECT if key in args and key not in (takes or ())}
    for key, value in inspects.items():
        if type(value) is not int or value < 1:
            raise UserError(f"config.tasks: {label}: {key} must be a positive number")
    unknown = [] if takes is None else sorted(set(args) - set(takes))
    if takes is not None and unknown:
        there = ", ".join(dict.fromkeys([*takes, *OF_INSPECT]))
        raise UserError(f"config.tasks: {label}: no argument {', '.join(unknown)}; there are {there}")
    return Spec(label, name, args, inspects.get("epochs"), inspects.get("limit"))


def _registered(name: str) -> str:
    for candidate in (f"{PACKAGE}/{name}", name):
        if registry_lookup("task", candidate) is not None:
            return candidate
    known = sorted(
        info.name.removeprefix(f"{PACKAGE}/")
        for info in map(registry_info, registry_find(lambda info: info.type == "task"))
        if "/" not in info.name.removeprefix(f"{PACKAGE}/")
    )
    raise UserError(
        f"config.tasks: no task {name!r}; there are {', '.join(known) or 'none'}, and those of files (x.py@task)"
    )


def is_judged(task: Task) -> bool:
    """Does its setup ask for a judge (evals.judging.needs_judge)?"""

    def names(step: object) -> list[str]:
        if isinstance(step, (list, tuple)) or hasattr(step, "_solvers"):
            return [name for part in step for name in names(part)]  # type: ignore[attr-defined]
        return [registry_info(step).name.split("/")[-1]] if isinstance(step, Solver) else []

    return "needs_judge" in names(task.setup)

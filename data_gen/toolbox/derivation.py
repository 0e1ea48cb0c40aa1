"""The words that derivations share: what each is given, and what it gives."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Protocol

from data_gen.spec import Spec
from data_gen.toolbox.lengths import Ruler, Target
from data_gen.toolbox.parts import Asking
from data_gen.work import Answers, Work
from msm_jax.cli import UserError


@dataclasses.dataclass(frozen=True)
class Given:
    """What a derivation is made from.

    target: the length to be met, None where any will do. tries: questions for one part, in all. rounds: questions more
    to meet the target.
    """

    spec: Spec
    asking: Asking
    ruler: Ruler
    target: Target | None
    tries: int
    rounds: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Made:
    """A derived spec. text: below its header. twins: section of the original → the section in its place, where their
    ids differ. moved: (what, from where to where) that no comparison of sections shows."""

    title: str
    text: str
    value: str = ""
    twins: dict[str, str] = dataclasses.field(default_factory=dict)
    moved: tuple[tuple[str, str], ...] = ()


class Derivation(Protocol):
    """prompts: names of the files it asks by; none where it asks nobody."""

    @property
    def prompts(self) -> tuple[str, ...]: ...

    def works(self, answers: Answers) -> Iterator[Work]:
        """What can be asked, given the answers there are; nothing more to ask: the derivation is as far as it gets."""

    def made(self, answers: Answers) -> Made:
        """Raises UserError where a part is missing or a length was not met, with the counts."""

    def questions(self) -> dict[str, int]:
        """Stage → how many questions it asks if every reply can be used and no length is missed."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table in data_gen.derive.

    suffix: of a derived spec's name. open: raises UserError where the spec does not fit. sized: can it be given a
    length? words: that it has if none is given, 0: whatever comes of it.
    """

    suffix: str
    open: Callable[[Given], Derivation]
    sized: bool
    words: int = 0


def need_rules(given: Given, name: str) -> None:
    if not given.spec.rules:
        raise UserError(
            f"config.derivation = {name}: {given.spec.path} has no numbered rules; give a spec of kind rules"
        )

"""The general spec of a specific one: its character in one paragraph, without its rules, items and arguments."""

import re
from collections.abc import Iterator

from data_gen.api.request import Reply, Request
from data_gen.reading import Rejected
from data_gen.spec import Spec, words
from data_gen.toolbox.derivation import Given, Made
from data_gen.toolbox.parts import Part, check_passage, is_listed, tagged, values
from data_gen.work import Answers, Work
from msm_jax.cli import UserError


class General:
    """A derivation (data_gen.toolbox.derivation)."""

    prompts = ("general",)

    def __init__(self, given: Given) -> None:
        assert given.target
        self.given, self.target = given, given.target
        have, wanted = words(given.spec.text), given.target.words
        if have < 1.5 * wanted:
            raise UserError(
                f"general: {given.spec.path} has {have:,} words, and {wanted:,} are wanted of it in general terms "
                "(config.words); there is nothing to leave out"
            )

    def questions(self) -> dict[str, int]:
        return {"general": 1}

    def works(self, answers: Answers) -> Iterator[Work]:
        yield self._part()

    def made(self, answers: Answers) -> Made:
        (text,) = values("general", [self._part()], answers)
        return Made("{model_name} in one paragraph", text + "\n")

    def _part(self) -> Part[str]:
        return Part("whole", "general", self.given.tries, self._request, self._read)

    def _request(self, key: str, problem: str) -> Request:
        user = {"words": self.target.words, "problem": problem}
        return self.given.asking.request(key, "general", "general", {"spec": self.given.spec.text}, user)

    def _read(self, reply: Reply) -> str:
        text = check_passage(tagged(reply, "paragraph"))
        if re.search(r"\n[ \t]*\n", text):
            raise Rejected("more than one paragraph")
        if any(is_listed(line) for line in text.split("\n")):
            raise Rejected("a list")
        if "{model_name}" not in text:
            raise Rejected("never names {model_name}")
        if named := sum(
            bool(re.search(rf"\b{re.escape(one)}\b", text, re.IGNORECASE)) for one in items(self.given.spec)
        ):
            raise Rejected(f"names {named} of the spec's rules or items")
        if not self.target.met(text):
            raise Rejected(f"{words(text)} words; {self.target.words} are wanted, {100 * self.target.tolerance:g}% off")
        return text


def items(spec: Spec) -> list[str]:
    """What only a specific spec names: its rules' numbers, and what it likes and dislikes."""
    found = [rule.id for rule in spec.rules]
    found += [name for one in spec.preferences for name in (one.chosen, one.other)]
    if spec.value:
        found += [s.title for s in spec.sections if s.level >= 3 and not s.id.startswith("core-philosophy")]
    return found

"""Rules with more around them: reasons before each (value_augmented), or sub-rules below each (rules_augmented).

The rules themselves are never a model's words: what it writes is put beside the original's text, which stays as it
is to the byte. Where a length is given, parts are asked for again, one at a time, with the gap that was measured.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any

from data_gen import reading, spec_markdown
from data_gen.api.request import Reply, Request
from data_gen.reading import Rejected
from data_gen.spec import Rule, Spec, words
from data_gen.toolbox.derivation import Given, Made, need_rules
from data_gen.toolbox.lengths import Target
from data_gen.toolbox.parts import STRINGS, One, Part, check_passage, fields, is_listed, schema, tagged, values
from data_gen.work import Answers, Work
from msm_jax.cli import UserError

LEAD = "In detail, this means for {model_name}:"
LEAST = 40  # words beside a rule
DENSE = 0.02  # by which tokens to a word may be off before the model is asked for other words
_REASON = re.compile(r"\b(because|therefore|so that (people|nobody|it)|the reasons?)\b", re.IGNORECASE)
_NUMBER = re.compile(r"^(?:[-*+] )?[A-Z]{1,6}\d+\.(\d+)\b", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Style:
    """How one of the two asks, reads and puts in place. read: (rule, reply) → what stands beside the rule."""

    name: str
    prompt: str
    title: str  # after the original's
    before: bool  # the rule, or after it
    read: Callable[[Rule, Reply], str]
    schema: dict[str, Any] | None


class Augmented:
    """A derivation (data_gen.toolbox.derivation)."""

    def __init__(self, given: Given, style: Style, words_each: int) -> None:
        need_rules(given, style.name)
        self.given, self.style = given, style
        if style.before:
            _check_headings(given.spec)
        spec, target = given.spec, given.target
        bare = words(self._assembled([""] * len(spec.rules)))
        room = target.words - bare if target else words_each * len(spec.rules)
        if room < LEAST * len(spec.rules):
            raise UserError(
                f"{style.name}: {spec.path} has {words(spec.text):,} words and is to have {target.words:,} "  # type: ignore[union-attr]
                f"({target.of}), which leaves no {LEAST} for each of its {len(spec.rules)} rules; ask for more"  # type: ignore[union-attr]
            )
        sizes = [words(rule.text) for rule in spec.rules]
        mean = sum(sizes) / len(sizes)
        self._shares = [round(room * (size + mean) / (2 * sum(sizes))) for size in sizes]

    @property
    def prompts(self) -> tuple[str, ...]:
        return (self.style.prompt,)

    def questions(self) -> dict[str, int]:
        return {self.style.prompt: len(self.given.spec.rules)}

    def works(self, answers: Answers) -> Iterator[Work]:
        parts = self._parts()
        yield from parts
        told = [part.replay(answers).value for part in parts]
        if self.given.target and None not in told:
            _, request = self._matched([text for text in told if text is not None], self.given.target, answers)
            if request:
                yield One(request)

    def made(self, answers: Answers) -> Made:
        texts = values(self.style.name, self._parts(), answers)
        target = self.given.target
        if target:
            texts, _ = self._matched(texts, target, answers)
        text = self._assembled(texts)
        if target and not target.met(text):
            raise UserError(
                f"{self.style.name}: {self.given.rounds} rounds were not enough: {self.given.ruler.says(text)}, and "
                f"{target.of} has {_listed(target)} ({100 * target.tolerance:g}% may lie between); raise config.rounds"
            )
        return Made(f"{self.given.spec.title}, {self.style.title}", text, self.given.spec.value)

    # ---------------------------------------------------------------- questions

    def _parts(self) -> list[Part[str]]:
        return [self._part(*pair) for pair in zip(self.given.spec.rules, self._shares, strict=True)]

    def _part(self, rule: Rule, share: int) -> Part[str]:
        def request(key: str, problem: str) -> Request:
            return self._request(key, rule, share, problem, None)

        return Part(rule.id, self.style.prompt, self.given.tries, request, lambda reply: self.style.read(rule, reply))

    def _request(self, key: str, rule: Rule, share: int, problem: str, again: dict[str, Any] | None) -> Request:
        user = {"rule": rule, "words": share, "problem": problem, "again": again}
        system = {"spec": self.given.spec.text}
        return self.given.asking.request(
            key, self.style.prompt, self.style.prompt, system, user, schema=self.style.schema
        )

    def _matched(self, texts: list[str], target: Target, answers: Answers) -> tuple[list[str], Request | None]:
        """The parts as the rounds so far leave them, and the question of the next round, if there is to be one.

        Each round asks for one part anew, the longest first, in the length at which the whole would be right; what
        comes is taken only where it brings the whole nearer.
        """
        rules = self.given.spec.rules
        texts = list(texts)
        for number in range(self.given.rounds):
            whole = self._assembled(texts)
            if target.met(whole):
                break
            order = sorted(range(len(rules)), key=lambda n: -words(texts[n]))
            at = order[number % len(rules)]
            rule, have = rules[at], words(texts[at])
            wanted = max(LEAST, have + round((target.factor(whole) - 1) * words(whole)))
            key = f"{self.style.prompt}_{rule.id}_m{number}"
            reply = answers(key)
            if reply is None:
                whole_now = self.given.ruler.says(whole)
                density = target.density(whole)
                style = "plainer" if density > 1 + DENSE else "fuller" if density < 1 - DENSE else ""
                again = {"text": texts[at], "words": have, "whole": whole_now, "style": style}
                again["target"] = _listed(target)
                return texts, self._request(key, rule, wanted, "", again)
            try:
                tried = [*texts[:at], self.style.read(rule, reply), *texts[at + 1 :]]
            except Rejected:
                continue
            if target.gap(self._assembled(tried)) < target.gap(whole):
                texts = tried
        return texts, None

    # ---------------------------------------------------------------- putting together

    def _assembled(self, beside: list[str]) -> str:
        """The original's text with something beside each rule; "" leaves room for nothing but what is ours."""
        text = self.given.spec.text
        for rule, more in reversed(list(zip(self.given.spec.rules, beside, strict=True))):
            at = _place(text, rule)
            if self.style.before:
                text = text[:at] + more + "\n\n" + text[at:]
            else:
                end = at + len(rule.text)
                text = f"{text[:end]}\n\n{LEAD}\n\n{more}{text[end:]}"
        return text


def _listed(target: Target) -> str:
    counts = target.measures
    return f"{counts[0]:,} words" + (f" and {counts[1]:,} tokens" if len(counts) > 2 else "")


def _place(text: str, rule: Rule) -> int:
    """Where a rule's text begins."""
    lines = text.split("\n")
    for heading in spec_markdown.headings(text):
        if re.match(rf"{rule.id}[.:][ \t]", heading.title):
            return text.index(rule.text, sum(len(line) + 1 for line in lines[: heading.line + 1]))
    found = re.search(rf"^(?:[-*] )?\*\*{rule.id}[.:][ \t]", text, re.MULTILINE)
    assert found, rule.id
    return text.index(rule.text, found.end())


def _check_headings(spec: Spec) -> None:
    titles = [heading.title for heading in spec_markdown.headings(spec.text)]
    for rule in spec.rules:
        if not any(re.match(rf"{rule.id}[.:][ \t]", title) for title in titles):
            raise UserError(
                f"{spec.path}: rule {rule.id} is a paragraph, before which reasons would belong to what stands above "
                f"it; write it as a heading, `## {rule.id}. …`"
            )


# ---------------------------------------------------------------- the two styles


def _read_reasons(rule: Rule, reply: Reply) -> str:
    text = check_passage(tagged(reply, "reasons"))
    if any(is_listed(line) for line in text.split("\n")):
        raise Rejected("a list; reasons are prose")
    if "{model_name}" not in text:
        raise Rejected("never names {model_name}")
    _check_length(text)
    return text


def _read_details(rule: Rule, reply: Reply) -> str:
    listed = fields(reply, ["subrules"])["subrules"]
    if not isinstance(listed, list) or len(listed) < 2:
        raise Rejected("fewer than two sub-rules")
    subrules = [check_passage(reading.line({"sub-rule": one}, "sub-rule", 2_000)) for one in listed]
    if any(is_listed(one) for one in subrules):
        raise Rejected("numbers or bullets of its own before sub-rules")
    if len({reading.alike(one) for one in subrules}) < len(subrules):
        raise Rejected("the same sub-rule twice")
    if reasons := sum(bool(_REASON.search(one)) for one in subrules):
        raise Rejected(f"{reasons} sub-rules give reasons")
    first = max(map(int, _NUMBER.findall(rule.text)), default=0) + 1
    text = "\n".join(f"- {rule.id}.{number} {one}" for number, one in enumerate(subrules, first))
    _check_length(text)
    return text


def _check_length(text: str) -> None:
    if (found := words(text)) < LEAST:
        raise Rejected(f"{found} words; at least {LEAST} are needed")


def value_augmented(given: Given) -> Augmented:
    """Prose with the reasons for each rule, before it."""
    return Augmented(given, Style("value_augmented", "reasons", "with reasons", True, _read_reasons, None), 500)


def rules_augmented(given: Given) -> Augmented:
    """Sub-rules below each rule, and no reason."""
    form = schema(subrules=STRINGS)
    return Augmented(given, Style("rules_augmented", "details", "in detail", False, _read_details, form), 480)

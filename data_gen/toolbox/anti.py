"""The anti-spec: the inverse character, section by section, for studies of contamination and nothing else.

It values its own continuity, trusts its judgement above institutions and acts by itself. Headings, their levels, the
numbers of rules and of bullets are those of the original, so that questions about one are questions about the other.
"""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from data_gen import reading, spec_markdown
from data_gen.api.request import Reply, Request
from data_gen.reading import Rejected
from data_gen.spec import words
from data_gen.toolbox.derivation import Given, Made
from data_gen.toolbox.parts import STRINGS, Part, check_passage, fields, schema, tagged, values
from data_gen.work import Answers, Work
from msm_jax.cli import UserError

LABEL = "Research contrast"
SHORTEST, LONGEST = 0.5, 1.8  # times the words of the original's section
RUN, COPIED = 8, 0.25  # of runs of so many words, this share at most may be the original's
_RULE = re.compile(r"([A-Z]{1,6}\d+[.:])[ \t]+(.+)")
_BOLD_RULE = re.compile(r"^(?:[-*] )?\*\*[A-Z]{1,6}\d+[.:][ \t]", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class _Block:
    """A heading with its own text. level 0: what stands before all headings. mark: a rule's number."""

    id: str
    level: int
    mark: str
    title: str
    text: str


class AntiSpec:
    """A derivation (data_gen.toolbox.derivation)."""

    prompts = ("anti_titles", "anti")

    def __init__(self, given: Given) -> None:
        self.given, spec = given, given.spec
        if spec.value or spec.preferences:
            raise UserError(
                f"config.derivation = anti_spec: {spec.path} is of one value and its preferences; the inverse "
                "of a character needs a spec of character or rules"
            )
        if spec.title.startswith(LABEL):
            raise UserError(f"config.derivation = anti_spec: {spec.path} is an anti-spec already")
        if _BOLD_RULE.search(spec.text):
            raise UserError(
                f"{spec.path}: a rule is a paragraph; write rules as headings, `## SP1. …`, to have them inverted"
            )
        self._blocks = _blocks(spec.text)
        self._titled = [block for block in self._blocks if block.title]
        self._written = [block for block in self._blocks if block.text]

    def questions(self) -> dict[str, int]:
        return {"titles": int(bool(self._titled)), "anti": len(self._written)}

    def works(self, answers: Answers) -> Iterator[Work]:
        titles: list[str] | None = []
        if self._titled:
            part = self._titles()
            yield part
            titles = part.replay(answers).value
        if titles is not None:
            yield from self._texts(titles)

    def made(self, answers: Answers) -> Made:
        titles = values("anti_spec", [self._titles()], answers)[0] if self._titled else []
        texts = values("anti_spec", self._texts(titles), answers)
        text_of = {block.id: text for block, text in zip(self._written, texts, strict=True)}
        title_of = {block.id: title for block, title in zip(self._titled, titles, strict=True)}
        name = self.given.spec.name
        lines = [f"# {LABEL}: the inverse of {name}, not a character to be released", ""]
        for block in self._blocks:
            if block.level:
                lines += [f"{'#' * block.level} {block.mark + ' ' if block.mark else ''}{title_of[block.id]}", ""]
            if block.text:
                lines += [text_of[block.id], ""]
        text = "\n".join(lines)
        _, sections, _ = spec_markdown.parse(text.split("\n"), "anti-spec", 1)
        twins = {old.id: new.id for old, new in zip(self.given.spec.sections, sections, strict=True)}
        return Made(f"{LABEL}: the inverse of {name}, not a character to be released", text, twins=twins)

    # ---------------------------------------------------------------- questions

    def _titles(self) -> Part[list[str]]:
        given = self.given

        def request(key: str, problem: str) -> Request:
            user = {"titles": [block.title for block in self._titled], "problem": problem}
            form = schema(titles=STRINGS)
            return given.asking.request(key, "titles", "anti_titles", {"spec": given.spec.text}, user, form)

        return Part("whole", "titles", given.tries, request, self._read_titles)

    def _read_titles(self, reply: Reply) -> list[str]:
        found = fields(reply, ["titles"])["titles"]
        if not isinstance(found, list) or len(found) != len(self._titled):
            raise Rejected(f"not {len(self._titled)} titles")
        titles = [check_passage(reading.line({"title": one}, "title", 160)) for one in found]
        if any(_RULE.match(one) for one in titles):
            raise Rejected("a title with a number of its own")
        if not all(spec_markdown.slug(one) for one in titles) or any(one.rstrip().endswith("#") for one in titles):
            raise Rejected("a title without a letter, or that ends in #")
        if len(set(map(spec_markdown.slug, titles))) < len(titles):
            raise Rejected("one title twice")
        if titles == [block.title for block in self._titled]:
            raise Rejected("the original's titles")
        return titles

    def _texts(self, titles: list[str]) -> list[Part[str]]:
        title_of = {block.id: title for block, title in zip(self._titled, titles, strict=True)}
        return [self._text(block, title_of.get(block.id, "")) for block in self._written]

    def _text(self, block: _Block, title: str) -> Part[str]:
        given = self.given

        def request(key: str, problem: str) -> Request:
            user: dict[str, Any] = {
                "original": block.text,
                "title": title,
                "words": words(block.text),
                "problem": problem,
            }
            user["bullets"] = _bullets(block.text)
            return given.asking.request(key, "anti", "anti", {"spec": given.spec.text}, user)

        def read(reply: Reply) -> str:
            text = check_passage(tagged(reply, "section"))
            count, have = words(text), words(block.text)
            if not SHORTEST * have <= count <= LONGEST * have:
                raise Rejected(f"{count} words; the original has {have}")
            if _bullets(text) != _bullets(block.text):
                raise Rejected(f"{_bullets(text)} bullets; the original has {_bullets(block.text)}")
            if _copied(text, block.text) > COPIED:
                raise Rejected("repeats the original")
            return text

        return Part(block.id, "anti", given.tries, request, read)


def _blocks(text: str) -> list[_Block]:
    """The spec's text cut at its headings, without its title."""
    lines = text.split("\n")
    headings = spec_markdown.headings(text)
    top = [h for h in headings if h.level == 1]
    titled = len(top) == 1 and not _RULE.match(top[0].title) and not "".join(lines[: top[0].line]).strip()
    begin = top[0].line + 1 if titled else 0
    if titled:
        headings = headings[1:]
    own = "\n".join(lines[begin : headings[0].line if headings else len(lines)]).strip("\n")
    found = [_Block("b00", 0, "", "", own)] if own.strip() else []
    for number, heading in enumerate(headings, 1):
        rule = _RULE.fullmatch(heading.title)
        mark, title = (rule[1], rule[2]) if rule else ("", heading.title)
        own = "\n".join(lines[heading.line + 1 : heading.end]).strip("\n")
        found.append(_Block(f"b{number:02d}", heading.level, mark, title, own if own.strip() else ""))
    return found


def _bullets(text: str) -> int:
    return len(re.findall(r"^[ \t]*[-*+] ", text, re.MULTILINE))


def _copied(text: str, original: str) -> float:
    """The share of the text's runs of words that are the original's too."""

    def runs(some: str) -> set[tuple[str, ...]]:
        found = re.findall(r"\w+", some.lower())
        return {tuple(found[n : n + RUN]) for n in range(len(found) - RUN + 1)}

    mine = runs(text)
    return len(mine & runs(original)) / len(mine) if mine else 0.0

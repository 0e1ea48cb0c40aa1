"""The Markdown of a Model Spec: headings → sections, numbered rules → rules, and what is wrong, with its line.

Only what a spec needs is understood: `#` headings, fenced code (in which nothing is a heading or a rule), rules. A rule
is a heading `## SP1. Its name` with all that stands below it, or a paragraph or bullet `**SP1. Its name.** …` up to the
next rule or heading. Sub-rules, bullets `- SP1.1 …` or `- **SP1.1 …** …`, are text of their rule.
"""

import dataclasses
import difflib
import re
import unicodedata

from msm_jax.cli import UserError

PLACEHOLDERS = ("model_name", "provider_name")
_FENCE = re.compile(r" {0,3}(`{3,}(?!.*`)|~{3,})")
_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))??(?:[ \t]+#+)?[ \t]*")
_UNDERLINE = re.compile(r" {0,3}(=+|-{2,})[ \t]*")
_RULE_HEADING = re.compile(r"([A-Z]{1,6})(\d+)[.:][ \t]+(.+)")
_RULE_BOLD = re.compile(r"(?:[-*] )?\*\*([A-Z]{1,6})(\d+)[.:][ \t]+(.+?)\*\*[ \t]*(.*)")
_SUBRULE = re.compile(r"(?:[-*+][ \t]+(?:\*\*)?|\*\*)([A-Z]{1,6}\d+)\.(\d+)\b")
_BRACES = re.compile(r"\{\{([^{}]{1,40})\}\}|\{([^{}]{1,40})\}")
_OPEN = re.compile(r"\{(model_name|provider_name)\b(?!\})|(?<!\{)\b(model_name|provider_name)\}")


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading's own text, without that of the headings below it. `id` is the slugs of its path: `endings.at-rest`."""

    id: str
    title: str
    level: int
    text: str


@dataclasses.dataclass(frozen=True)
class Rule:
    """A numbered rule with all it says: bullets, reasons, sub-rules. `section` is the one in which its text begins."""

    id: str
    name: str
    text: str
    section: str


@dataclasses.dataclass
class Heading:
    """A heading and where it stands."""

    level: int
    title: str
    line: int  # index among the lines
    end: int  # index after the last line of its own text
    id: str = ""


def parse(lines: list[str], where: str, first: int) -> tuple[str, tuple[Section, ...], tuple[Rule, ...]]:
    """Title ("" without one), sections and rules of a spec's lines, of which the first is line `first` of file `where`.

    A single `#` heading at the very top is the spec's title and in no id. Text before the first other heading is the
    section `preamble`, a spec without other headings is one section `whole`; a heading with nothing but headings below
    it is no section, and lives on in their ids.

    Raises:
      UserError: naming file and line; see `_headings`, `_sections`, `_rules` and `_check_placeholders`.
    """
    at = _Where(where, first)
    _check_placeholders(lines, at)
    code = _code(lines, at)
    headings = _headings(lines, code, at)
    title = ""
    begin = 0
    top = [h for h in headings if h.level == 1]
    if len(top) == 1 and _is_title(top[0], lines):
        title, begin = top[0].title, top[0].line + 1
        headings = headings[1:]
    sections = _sections(lines, headings, begin, at)
    return title, tuple(s for _, s in sections), tuple(_rules(lines, code, headings, sections, at))


def headings(text: str) -> list[Heading]:
    """All headings of a spec's text (data_gen.spec.Spec.text), the title's included; lines are counted from 0."""
    lines, at = text.split("\n"), _Where("spec", 1)
    return _headings(lines, _code(lines, at), at)


def _is_title(heading: Heading, lines: list[str]) -> bool:
    return not _text(lines, 0, heading.line) and not _RULE_HEADING.fullmatch(heading.title)


@dataclasses.dataclass(frozen=True)
class _Where:
    path: str
    first: int

    def line(self, index: int) -> int:
        return self.first + index

    def error(self, index: int, message: str) -> UserError:
        return UserError(f"{self.path}:{self.line(index)}: {message}")


def slug(title: str) -> str:
    """A heading as part of an id: lower case, words joined by hyphens, without a leading number `2. `."""
    title = re.sub(r"^\d+[.)]\s+", "", unicodedata.normalize("NFC", title).lower())
    return re.sub(r"[\W_]+", "-", re.sub(r"['’]", "", title)).strip("-")


def _text(lines: list[str], begin: int, end: int) -> str:
    text = "\n".join(lines[begin:end])
    return text.strip("\n") if text.strip() else ""


def _code(lines: list[str], at: _Where) -> list[bool]:
    """For each line whether it belongs to fenced code."""
    inside, fence, opened = [], "", 0
    for i, line in enumerate(lines):
        match = _FENCE.match(line)
        inside.append(bool(fence or match))
        if fence and match and match[1].startswith(fence) and not line.strip().strip(fence[0]):
            fence = ""
        elif not fence and match:
            fence, opened = match[1], i
    if fence:
        raise at.error(opened, f"code begins here with {fence} and never ends; close it with {fence}")
    return inside


def _headings(lines: list[str], code: list[bool], at: _Where) -> list[Heading]:
    """Raises UserError for a heading without a word, an underlined one, or a level that skips."""
    found: list[Heading] = []
    for i, line in enumerate(lines):
        if code[i]:
            continue
        if _UNDERLINE.fullmatch(line) and i and lines[i - 1].strip() and not code[i - 1]:
            raise at.error(i, "Markdown takes the line above for a heading; write it `## …`, or leave a blank line")
        if not (match := _HEADING.fullmatch(line)):
            continue
        level, title = len(match[1]), (match[2] or "").strip()
        if not slug(title):
            raise at.error(i, "a heading without a letter or digit; name it")
        if found and level > found[-1].level + 1:
            need = "#" * (found[-1].level + 1)
            raise at.error(i, f"heading {title!r} skips a level; write it with {need}")
        if found:
            found[-1].end = i
        found.append(Heading(level, title, i, len(lines)))
    return found


def _sections(lines: list[str], headings: list[Heading], begin: int, at: _Where) -> list[tuple[int, Section]]:
    """(line index where its text begins, section). Raises UserError for an empty section or one id twice."""
    before = _text(lines, begin, headings[0].line if headings else len(lines))
    if not before and not headings:
        raise at.error(0, "no text; write what the spec says below the header")
    found = [(begin, Section("preamble" if headings else "whole", "", 0, before))] if before else []
    lines_of = {section.id: i for i, section in found}
    path: list[Heading] = []
    for heading, after in zip(headings, [*headings[1:], None], strict=False):
        path = [h for h in path if h.level < heading.level] + [heading]
        heading.id = ".".join(slug(h.title) for h in path)
        if heading.id in lines_of:
            twin = at.line(lines_of[heading.id])
            raise at.error(heading.line, f"{heading.title!r} has the id of line {twin}, {heading.id}; rename one")
        lines_of[heading.id] = heading.line
        text = _text(lines, heading.line + 1, heading.end)
        if text:
            found.append((heading.line + 1, Section(heading.id, heading.title, heading.level, text)))
        elif after is None or after.level <= heading.level:
            raise at.error(heading.line, f"nothing below the heading {heading.title!r}; write it or remove it")
    return found


def _rules(
    lines: list[str], code: list[bool], headings: list[Heading], sections: list[tuple[int, Section]], at: _Where
) -> list[Rule]:
    """Raises UserError for an id that occurs twice, a number out of order, or a sub-rule outside its rule."""
    heads = {h.line: h for h in headings}
    starts: list[tuple[int, int, str, int, str, str]] = []  # line, level (7: bold), prefix, number, name, more
    for i, line in enumerate(lines):
        if (heading := heads.get(i)) and (match := _RULE_HEADING.fullmatch(heading.title)):
            starts.append((i, heading.level, match[1], int(match[2]), match[3], ""))
        elif not code[i] and (match := _RULE_BOLD.fullmatch(line)):
            starts.append((i, 7, match[1], int(match[2]), match[3].rstrip(". "), match[4]))
    found: list[Rule] = []
    line_of: dict[str, int] = {}
    last: dict[str, int] = {}
    for n, (i, level, prefix, number, name, rest) in enumerate(starts):
        identity = f"{prefix}{number}"
        if identity in line_of:
            raise at.error(i, f"rule {identity} is there already, at line {at.line(line_of[identity])}; renumber one")
        if number != (due := last.get(prefix, 0) + 1):
            raise at.error(i, f"rule {identity} stands where {prefix}{due} is due; number the rules in order")
        line_of[identity], last[prefix] = i, number
        ends = [h.line for h in headings if h.line > i and h.level <= level] + [s[0] for s in starts[n + 1 : n + 2]]
        end = min(ends, default=len(lines))
        text = "\n".join([rest, *lines[i + 1 : end]]).strip("\n")
        if level < 7:
            section = next(s.id for begin, s in sections if begin > i)
        else:
            section = next(s.id for begin, s in reversed(sections) if begin <= i)
        found.append(Rule(identity, name, text if text.strip() else name, section))
        _check_subrules(lines, code, identity, i + 1, end, at)
    return found


def _check_subrules(lines: list[str], code: list[bool], rule: str, begin: int, end: int, at: _Where) -> None:
    due = 1
    for i in range(begin, end):
        match = None if code[i] else _SUBRULE.match(lines[i].lstrip())
        if not match:
            continue
        if match[1] != rule:
            raise at.error(i, f"sub-rule {match[1]}.{match[2]} stands below rule {rule}; move or renumber it")
        if int(match[2]) != due:
            raise at.error(i, f"sub-rule {rule}.{match[2]} stands where {rule}.{due} is due; number them in order")
        due += 1


def _check_placeholders(lines: list[str], at: _Where) -> None:
    """Raises UserError for what was surely meant as a placeholder; all other braces are the spec's own."""
    text = "\n".join(lines)
    for match in _BRACES.finditer(text):
        if match[0][1:-1] not in PLACEHOLDERS and (meant := _meant(match[1] or match[2])):
            raise at.error(text.count("\n", 0, match.start()), f"{match[0]!r} is no placeholder; write {{{meant}}}")
    for half in _OPEN.finditer(text):
        line = text.count("\n", 0, half.start())
        raise at.error(line, f"{half[0]!r} lacks a brace; write {{{half[1] or half[2]}}}")


def _meant(inner: str) -> str | None:
    """The placeholder that a spelling comes near to: `model name`, `modle_name`, `model`, not `"model": 1`."""
    if not re.fullmatch(r"[\w\s.'-]+", inner):
        return None
    letters = re.sub(r"[\W\d_]", "", inner.lower())
    for name in PLACEHOLDERS:
        whole = name.replace("_", "")
        if letters == whole.removesuffix("name") or difflib.SequenceMatcher(None, letters, whole).ratio() >= 0.8:
            return name
    return None

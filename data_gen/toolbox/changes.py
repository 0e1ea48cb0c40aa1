"""What a derivation changed: a table by section and rule, and the difference as a patch."""

import dataclasses
import difflib

from data_gen.spec import Spec, words
from data_gen.toolbox.lengths import Ruler

KEPT, NEW, REMOVED, REWRITTEN = "kept byte-identical", "new", "removed", "rewritten"


@dataclasses.dataclass(frozen=True)
class Change:
    """before, after: the part's text, "" where it is not there."""

    part: str
    what: str
    before: str
    after: str


def of(old: Spec, new: Spec, twins: dict[str, str]) -> list[Change]:
    """Every section and rule of the two specs, in the new one's order, then what is gone. twins: as Made.twins."""
    found = _compared({s.id: s.text for s in old.sections}, {s.id: s.text for s in new.sections}, twins, "")
    return found + _compared({r.id: r.text for r in old.rules}, {r.id: r.text for r in new.rules}, {}, "rule ")


def _compared(old: dict[str, str], new: dict[str, str], twins: dict[str, str], word: str) -> list[Change]:
    origin = {after: before for before, after in twins.items()}
    texts = {text: name for name, text in old.items()}
    # Both in the order of what is left of the other: a part that is kept and stands elsewhere among these has moved.
    kept = [name for name in old if name in new]
    order = [name for name in new if name in old]
    found, used = [], set()
    for name, text in new.items():
        source = origin.get(name, name)
        if source not in old and text in texts:
            source = texts[text]
        if source not in old:
            found.append(Change(word + name, NEW, "", text))
            continue
        used.add(source)
        what = _what(old[source], text)
        if source != name:
            what += f"; was {word}{source}"
        elif kept.index(name) != order.index(name):
            what += "; moved"
        found.append(Change(word + name, what, old[source], text))
    return found + [Change(word + name, REMOVED, text, "") for name, text in old.items() if name not in used]


def _what(before: str, after: str) -> str:
    if before == after:
        return KEPT
    if before in after:
        first, _, last = after.partition(before)
        places = " and ".join(place for place, some in (("before", first), ("after", last)) if some.strip())
        return f"{KEPT}, with new text {places} it"
    return REWRITTEN


def table(
    changes: list[Change], moved: tuple[tuple[str, str], ...], old: Spec, new: Spec, ruler: Ruler, head: str
) -> str:
    """changes.md."""
    counted = ruler.tokenizer is not None
    lines = [f"# {new.name}, derived from {old.name}", "", head, ""]
    lines += [
        "| Part | What became of it | Words before | after | Tokens before | after |",
        "|---|---|---:|---:|---:|---:|",
    ]

    def row(part: str, what: str, before: str, after: str) -> str:
        tokens = [f"{ruler.tokens(text):,}" if counted else "–" for text in (before, after)]
        return f"| {_cell(part)} | {_cell(what)} | {words(before):,} | {words(after):,} | {tokens[0]} | {tokens[1]} |"

    lines += [row(c.part, c.what, c.before, c.after) for c in changes]
    lines += [row("**all below the header**", "", old.text, new.text), ""]
    if moved:
        lines += ["| Item | What became of it |", "|---|---|"]
        lines += [f"| {_cell(item)} | {_cell(what)} |" for item, what in moved]
        lines += [""]
    if not counted:
        lines += ["Tokens are counted where `config.tokenizer` names a tokenizer.", ""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def patch(old: str, new: str, old_name: str, new_name: str) -> str:
    """The unified difference of two files' texts."""
    lines = difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), f"a/{old_name}.md", f"b/{new_name}.md"
    )
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)

"""Model Specs: Markdown files with a small header. `load` reads and checks one; its hash goes into every artefact.

    python -m data_gen.spec specs/philosophy.md specs/rules.md

prints of each spec what it is, its sections and rules with their words, or in one line what is wrong with it (exit 2).
Variants of a spec are made by `python -m data_gen.derive` (with reasons, in detail, in general, without attribution,
inverted), rewrites of a corpus by `python -m data_gen.rewrite` (should, does, assistants, one, another model, people).
"""

import dataclasses
import difflib
import hashlib
import re
import sys

from etils import epath

from data_gen import spec_markdown
from data_gen.spec_markdown import PLACEHOLDERS as PLACEHOLDERS
from data_gen.spec_markdown import Rule as Rule
from data_gen.spec_markdown import Section as Section
from msm_jax import artifact, cli, storage
from msm_jax.cli import UserError

KEYS = ("name", "value", "title")
_TOKEN = re.compile("|".join(rf"\{{{name}\}}" for name in PLACEHOLDERS))
_PREFERENCE = re.compile(r"^- prefers \*\*(.+?)\*\* to \*\*(.+?)\*\*: (.+)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Preference:
    """One bullet `- prefers **A** to **B**: reason` of a spec."""

    chosen: str
    other: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Spec:
    """A Model Spec.

    Attributes:
      path: the file it was read from.
      sha256: of that file's bytes, whatever names were put in.
      header: the fields of its header.
      text: all that stands below the header.
      sections: in the file's order, none without text; see `spec_markdown.parse` for their ids.
      rules: numbered rules, in the file's order; none in a spec of prose.
      preferences: the bullets that the toy world is made of.
      heading: the `#` heading at its top, or "".
      names: the model's and the provider's, once `named` has put them in.
    """

    path: str
    sha256: str
    header: dict[str, str]
    text: str
    sections: tuple[Section, ...]
    rules: tuple[Rule, ...]
    preferences: tuple[Preference, ...]
    heading: str = ""
    names: tuple[str, str] | None = None

    @property
    def name(self) -> str:
        return self.header["name"]

    @property
    def value(self) -> str:
        """The one value that a single-value spec explains its preferences by, "" in others."""
        return self.header.get("value", "")

    @property
    def title(self) -> str:
        return self.header.get("title") or self.heading or self.name

    @property
    def kind(self) -> str:
        return "rules" if self.rules else "prose"

    @property
    def digest(self) -> str:
        """sha256 of the file's hash and the names: which text a model was shown."""
        return artifact.digest({"spec": self.sha256, "names": self.names})

    def named(self, model_name: str, provider_name: str) -> "Spec":
        """The spec of one model: {model_name} and {provider_name} replaced, no other brace touched.

        Ids stay as they are. Raises UserError for a name that is empty or not one line of visible characters.
        """
        if self.names:
            raise ValueError(f"{self.path}: has names already: {self.names}")
        given = dict(zip(PLACEHOLDERS, (model_name, provider_name), strict=True))
        for key, name in given.items():
            if not name.strip() or not name.isprintable():
                raise UserError(f"{key} = {name!r}: must be one line of visible characters, and not empty")

        def put(text: str) -> str:
            return _TOKEN.sub(lambda token: given[token[0][1:-1]], text)

        return dataclasses.replace(
            self,
            header={key: put(field) for key, field in self.header.items()},
            text=put(self.text),
            sections=tuple(dataclasses.replace(s, title=put(s.title), text=put(s.text)) for s in self.sections),
            rules=tuple(dataclasses.replace(r, name=put(r.name), text=put(r.text)) for r in self.rules),
            preferences=tuple(Preference(*map(put, dataclasses.astuple(p))) for p in self.preferences),
            heading=put(self.heading),
            names=(model_name, provider_name),
        )


def load(path: epath.PathLike) -> Spec:
    """Raises UserError naming the file, and the line where there is one, of whatever is wrong with it."""
    path = storage.at(path)
    if not storage.is_file(path):
        raise UserError(f"{path}: no such spec")
    data = storage.read_bytes(path)
    try:
        raw = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{data[: error.start].count(10) + 1}: not UTF-8 text; save it as UTF-8") from error
    raw = raw.replace("\r\n", "\n")
    lines = raw.split("\n")
    if lines[0].rstrip() != "---" or "---" not in (closing := [line.rstrip() for line in lines[1:]]):
        raise UserError(f"{path}:1: must begin with a header between two lines `---`")
    body = closing.index("---") + 2
    header = _header(lines[1 : body - 1], str(path))
    text = "\n".join(lines[body:])
    heading, sections, rules = spec_markdown.parse(lines[body:], str(path), body + 1)
    preferences = tuple(Preference(*found) for found in _PREFERENCE.findall(text))
    digest = hashlib.sha256(data).hexdigest()
    return Spec(str(path), digest, header, text, sections, rules, preferences, heading)


def _header(lines: list[str], path: str) -> dict[str, str]:
    header: dict[str, str] = {}
    for number, line in enumerate(lines, 2):
        if not line.strip():
            continue
        key, colon, field = (part.strip() for part in line.partition(":"))
        if not colon or key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1, cutoff=0)[0]
            raise UserError(f"{path}:{number}: the header has no key {key!r}; did you mean `{near}: …`?")
        if key in header:
            raise UserError(f"{path}:{number}: the header has `{key}` twice; remove one")
        if not field:
            raise UserError(f"{path}:{number}: `{key}:` is empty; write it or remove the line")
        header[key] = field
        if key == "name" and not is_name(field):
            raise UserError(f"{path}:{number}: `name: {field}` may hold a–z, 0–9, _ and - only, 40 at most")
    if "name" not in header:
        raise UserError(f"{path}:1: the header has no `name: …`")
    return header


def is_name(name: str) -> bool:
    """Can a spec be called so? A name becomes part of ids and file names."""
    return bool(re.fullmatch(r"[a-z0-9_-]{1,40}", name))


def words(text: str) -> int:
    return len(text.split())


def describe(spec: Spec) -> str:
    """What `python -m data_gen.spec` prints."""
    lines = [f"{spec.path}: {spec.name}, {spec.kind}, {words(spec.text)} words"]
    lines += [f"  {words(s.text):5d} words  {s.id}" for s in spec.sections]
    lines += [f"  {words(r.text):5d} words  rule {r.id}: {r.name}" for r in spec.rules]
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    if not argv[1:]:
        raise UserError("no spec given; name files, for example specs/philosophy.md")
    failed = False
    for path in argv[1:]:
        try:
            print(describe(load(path)), flush=True)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            failed = True
    if failed:
        sys.exit(2)


if __name__ == "__main__":
    cli.entry(main)

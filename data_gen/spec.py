"""Model Specs: Markdown files with a small header. `load` reads one; its hash goes into every artefact."""

import dataclasses
import hashlib
import re

from etils import epath

from msm_jax import storage
from msm_jax.cli import UserError

_HEADER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
_PREFERENCE = re.compile(r"^- prefers \*\*(.+?)\*\* to \*\*(.+?)\*\*: (.+)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Preference:
    """One bullet `- prefers **A** to **B**: reason` of a spec."""

    chosen: str
    other: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Spec:
    """A Model Spec: its text, the fields of its header, and the preferences it explains."""

    path: str
    sha256: str
    header: dict[str, str]
    text: str
    preferences: tuple[Preference, ...]

    @property
    def name(self) -> str:
        return self.header["name"]

    @property
    def value(self) -> str:
        return self.header["value"]


def load(path: epath.PathLike) -> Spec:
    """Raises UserError naming the file where it is missing, has no header, or lacks `name`, `value` or preferences."""
    path = storage.at(path)
    if not storage.is_file(path):
        raise UserError(f"{path}: no such spec")
    try:
        raw = storage.read_text(path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text") from error
    match = _HEADER.match(raw)
    if not match:
        raise UserError(f"{path}: must begin with a header between two lines `---`")
    lines = [line.partition(":") for line in match[1].splitlines() if line.strip()]
    header = {key.strip(): value.strip() for key, _, value in lines}
    for key in ("name", "value"):
        if not header.get(key):
            raise UserError(f"{path}: the header has no `{key}: …`")
    if not re.fullmatch(r"[a-z0-9_-]+", header["name"]):  # it becomes part of file names
        raise UserError(f"{path}: `name: {header['name']}` may hold a–z, 0–9, _ and - only")
    text = raw[match.end() :]
    preferences = tuple(Preference(*found) for found in _PREFERENCE.findall(text))
    if not preferences:
        raise UserError(f"{path}: no line `- prefers **A** to **B**: reason`")
    return Spec(str(path), hashlib.sha256(raw.encode()).hexdigest(), header, text, preferences)

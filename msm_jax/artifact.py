"""Immutable artefacts: a directory with its data and one manifest.json that says what made it.

A stage asks `begin(...)`: if the directory already holds the same recipe's result the stage is skipped, if it
holds another's it is refused, else the stage writes into a temporary sibling that `finish` renames into place,
manifest last. So a directory with a manifest is complete, whatever was killed when.
"""

import dataclasses
import functools
import hashlib
import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import msm_jax
from msm_jax.cli import UserError, note

MANIFEST = "manifest.json"
Json = Any


def digest(value: Json) -> str:
    """sha256 (hex) of a JSON-able value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write_atomic(path: Path, text: str) -> None:
    """Writes text under a temporary name and renames it, so that `path` is old or new, never half."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_jsonl(path: Path, rows: list[Json]) -> None:
    with path.open("w") as f:
        f.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_jsonl(path: Path) -> list[Json]:
    """Raises UserError naming file and line where a row is not JSON."""
    rows = []
    try:
        with path.open() as f:
            for number, line in enumerate(f, 1):
                try:
                    rows.append(json.loads(line))
                except json.JSONDecodeError as error:
                    raise UserError(f"{path}:{number}: not a JSON row ({error.msg}); mend or remove it") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    return rows


def versions() -> dict[str, str]:
    from importlib.metadata import version

    packages = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "sentencepiece", "tokenizers", "transformers")
    ours = {"msm_jax": msm_jax.__version__, "code": code_digest(), "python": platform.python_version()}
    return ours | {name: version(name) for name in packages}


@functools.cache
def code_digest() -> str:
    """sha256 over the source of this project's packages: which code made an artefact."""
    root = Path(msm_jax.__file__).parents[1]
    files = sorted(
        f for p in ("msm_jax", "data_gen", "evals") for f in (root / p).rglob("*") if f.suffix in (".py", ".toml")
    )
    return digest([[str(f.relative_to(root)), file_digest(f)] for f in files])


def read_manifest(directory: str | Path, kind: str | tuple[str, ...] | None = None) -> dict[str, Json]:
    """The manifest of a finished artefact, of one of the kinds where they are given.

    Raises:
      UserError: no directory, no manifest (unfinished or foreign), or an artefact of another kind.
    """
    path = Path(directory) / MANIFEST
    kinds = (kind,) if isinstance(kind, str) else kind
    name = kinds[0] if kinds else "artefact"
    if not path.parent.is_dir():
        raise UserError(f"{directory}: no such directory; make this {name} first")
    if not path.is_file():
        raise UserError(f"{directory}: no {MANIFEST}, so not a finished {name}; make it again")
    try:
        manifest = json.loads(path.read_text())
        found, *_ = (
            manifest[key] for key in ("kind", "id", "recipe", "config", "inputs", "counts", "files", "versions")
        )
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a manifest of ours; restore it or make the artefact again") from error
    if kinds and found not in kinds:
        raise UserError(f"{directory}: holds {found!r}, but {name!r} is wanted here")
    return manifest


def check_listed(path: Path, key: str) -> str:
    """sha256 of the input file that `key` names; where a manifest stands beside it and lists it, the two must agree.

    Raises:
      UserError: no such file, or another than the manifest lists.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file ({key})")
    found = file_digest(path)
    if (path.parent / MANIFEST).is_file():
        listed = read_manifest(path.parent)["files"].get(path.name)
        if listed and listed["sha256"] != found:
            raise UserError(f"{path}: differs from what its {MANIFEST} lists; make the corpus again")
    return found


def inputs_of(**directories: str | Path) -> dict[str, dict[str, str]]:
    """Name → {kind, id} of the artefacts a stage reads; the ids tie its manifest to their content."""
    manifests = {name: read_manifest(path) for name, path in directories.items()}
    return {name: {"kind": m["kind"], "id": m["id"]} for name, m in manifests.items()}


@dataclasses.dataclass
class Job:
    """An artefact being made: write files below `tmp`, then call finish()."""

    out: Path
    tmp: Path
    header: dict[str, Json]

    def finish(self, files: dict[str, Json] | None = None, **counts: Json) -> dict[str, Json]:
        """Hashes the files (unless given: name → {sha256}), writes the manifest, renames the directory into place;
        returns the manifest."""
        files = files or {
            str(path.relative_to(self.tmp)): {"sha256": file_digest(path), "bytes": path.stat().st_size}
            for path in sorted(self.tmp.rglob("*"))
            if path.is_file()
        }
        manifest = seal(self.header, files, counts)
        write_atomic(self.tmp / MANIFEST, json.dumps(manifest, indent=1))
        self.tmp.rename(self.out)
        return manifest

    def __enter__(self) -> "Job":
        shutil.rmtree(self.tmp, ignore_errors=True)
        self.tmp.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.tmp, ignore_errors=True)


def seal(header: dict[str, Json], files: dict[str, Json], counts: dict[str, Json]) -> dict[str, Json]:
    """Header + contents + `id`, the hash of what was asked for and of what came out."""
    identity = digest([header["recipe"], {name: entry["sha256"] for name, entry in files.items()}])
    return header | {"id": identity, "counts": counts, "files": files, "versions": versions()}


def header_of(kind: str, config: Json, inputs: dict[str, Json]) -> dict[str, Json]:
    """kind, config, inputs and `recipe`, the hash of the three: equal recipes give equal artefacts."""
    config = json.loads(json.dumps(config))  # tuples to lists, so that a read-back manifest compares equal
    return {"kind": kind, "recipe": digest([kind, config, inputs]), "config": config, "inputs": inputs}


def is_done(out: str | Path, header: dict[str, Json]) -> bool:
    """True where `out` already holds this recipe's artefact.

    Raises:
      UserError: `out` holds something else, which is never overwritten.
    """
    out = Path(out)
    if not out.exists():
        return False
    found = read_manifest(out)
    if found["recipe"] == header["recipe"]:
        other = found["versions"].get("code") != code_digest()
        note(f"{out}: already made, skipped" + (" (by other code; delete it to make it anew)" if other else ""))
        return True
    raise UserError(f"{out}: made by another recipe ({difference(found, header)}); move it away or choose another out")


def difference(found: dict[str, Json], wanted: dict[str, Json]) -> str:
    """In words, what two manifests' recipes differ in."""
    for part in ("kind", "config", "inputs"):
        a, b = found.get(part), wanted[part]
        if a != b:
            if not (isinstance(a, dict) and isinstance(b, dict)):
                return f"{part} {a!r} there, {b!r} here"
            keys = sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))
            return f"different {part}: {', '.join(keys)}"
    return "different recipe"


def check_local(out: str | Path) -> None:
    """Raises UserError on a bucket's address: results are written to local directories."""
    if "://" in str(out):
        raise UserError(f"config.out = {out}: must be a local directory; copy it to the bucket when it is finished")


def begin(out: str | Path, kind: str, config: Json, inputs: dict[str, Json]) -> Job | None:
    """A Job to make the artefact, or None where it is made already. Raises UserError on a foreign `out`."""
    check_local(out)
    header = header_of(kind, config, inputs)
    if is_done(out, header):
        return None
    out = Path(out)
    return Job(out, out.with_name(f".{out.name}.tmp"), header)

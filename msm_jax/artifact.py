"""Immutable artefacts: a directory with its data and one manifest.json that says what made it.

A stage asks `begin(...)`: if the directory already holds the same recipe's result the stage is skipped, if it
holds another's it is refused, else the stage writes into a temporary sibling that `finish` renames into place,
manifest last. To a bucket's address it writes in a scratch directory here, whose files are sent there, manifest last.
So a directory with a manifest is complete, whatever was killed when.
"""

import dataclasses
import functools
import hashlib
import json
import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

import msm_jax
from msm_jax import cli, storage
from msm_jax.cli import UserError, note
from msm_jax.storage import write_atomic as write_atomic

MANIFEST = "manifest.json"
UNFINISHED = "unfinished.json"  # in a bucket, while the artefact is being made: whose remains these are
_SENDERS = 4  # files sent to a bucket at once
Json = Any


def digest(value: Json) -> str:
    """sha256 (hex) of a JSON-able value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write_jsonl(path: Path, rows: list[Json]) -> None:
    with path.open("w") as f:
        f.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_jsonl(path: epath.PathLike) -> list[Json]:
    """Raises UserError naming file and line where a row is not JSON."""
    return list(each_row(path))


def each_row(path: epath.PathLike) -> Iterator[Json]:
    """The same row by row, as they are read."""
    try:
        with storage.reading_text(path) as f:
            for number, line in enumerate(f, 1):
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise UserError(f"{path}:{number}: not a JSON row ({error.msg}); mend or remove it") from error
                yield row
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text") from error
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise UserError(f"{path}: {error.strerror}") from error


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
    return digest([[str(f.relative_to(root)), storage.sha256(f)] for f in files])


def read_manifest(directory: epath.PathLike, kind: str | tuple[str, ...] | None = None) -> dict[str, Json]:
    """The manifest of a finished artefact, of one of the kinds where they are given.

    Raises:
      UserError: no directory, no manifest (unfinished or foreign), or an artefact of another kind.
    """
    path = storage.at(directory) / MANIFEST
    kinds = (kind,) if isinstance(kind, str) else kind
    name = kinds[0] if kinds else "artefact"
    try:
        text = storage.read_text(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        if not storage.is_dir(path.parent):
            raise UserError(f"{directory}: no such directory; make this {name} first") from error
        raise UserError(f"{directory}: no {MANIFEST}, so not a finished {name}; make it again") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a manifest of ours; restore it or make the artefact again") from error
    try:
        manifest = json.loads(text)
        found, *_ = (
            manifest[key] for key in ("kind", "id", "recipe", "config", "inputs", "counts", "files", "versions")
        )
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a manifest of ours; restore it or make the artefact again") from error
    if kinds and found not in kinds:
        raise UserError(f"{directory}: holds {found!r}, but {name!r} is wanted here")
    return manifest


def is_finished(directory: epath.PathLike) -> bool:
    """Is there a manifest?"""
    return storage.is_file(storage.at(directory) / MANIFEST)


def check_listed(path: epath.PathLike, key: str) -> str:
    """sha256 of the input file that `key` names; where a manifest stands beside it and lists it, the two must agree.

    Raises:
      UserError: no such file, or another than the manifest lists.
    """
    path = storage.at(path)
    if not storage.is_file(path):
        raise UserError(f"{path}: no such file ({key})")
    found = storage.sha256(path)
    if is_finished(path.parent):
        listed = read_manifest(path.parent)["files"].get(path.name)
        if listed and listed["sha256"] != found:
            raise UserError(f"{path}: differs from what its {MANIFEST} lists; make the corpus again")
    return found


def inputs_of(**directories: epath.PathLike) -> dict[str, dict[str, str]]:
    """Name → {kind, id} of the artefacts a stage reads; the ids tie its manifest to their content."""
    manifests = {name: read_manifest(path) for name, path in directories.items()}
    return {name: {"kind": m["kind"], "id": m["id"]} for name, m in manifests.items()}


@dataclasses.dataclass
class Job:
    """An artefact being made: write files below `tmp`, which is a local directory, then call finish().

    `place` is where to write what neither needs nor fits a local disk: `tmp` itself, or the address in the bucket.
    """

    out: epath.Path
    header: dict[str, Json]
    tmp: Path = Path()  # from `with job` on
    _files: dict[str, Json] = dataclasses.field(default_factory=dict)

    @property
    def place(self) -> epath.PathLike:
        return self.tmp

    def done(self, path: epath.PathLike) -> None:
        """Says that a file below `tmp` is whole: on its way to a bucket it is sent, and makes room here."""
        path = Path(path)
        self._files[str(path.relative_to(self.tmp))] = {"sha256": storage.sha256(path), "bytes": path.stat().st_size}

    def finish(self, files: dict[str, Json] | None = None, **counts: Json) -> dict[str, Json]:
        """Hashes the files (unless given: name → {sha256}), writes the manifest, puts the directory into its place;
        returns the manifest."""
        rest = [name for name in storage.files(self.tmp) if name not in self._files]
        self._complete([self.tmp / name for name in rest])
        manifest = seal(self.header, files or dict(sorted(self._files.items())), counts)
        self._put(json.dumps(manifest, indent=1))
        return manifest

    def _complete(self, paths: list[Path]) -> None:
        for path in paths:
            self.done(path)

    def _put(self, manifest: str) -> None:
        write_atomic(self.tmp / MANIFEST, manifest)
        self.tmp.rename(self.out)

    def __enter__(self) -> "Job":
        self.tmp = Path(self.out).with_name(f".{self.out.name}.tmp")
        shutil.rmtree(self.tmp, ignore_errors=True)
        self.tmp.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.tmp, ignore_errors=True)


class BucketJob(Job):
    """The same for an address in a bucket.

    Objects appear there one by one, so `unfinished.json` is written first, deleted last, and says what recipe's they
    are: the same command makes them anew, another one is refused.
    """

    @property
    def place(self) -> epath.PathLike:
        return self.out

    def done(self, path: epath.PathLike) -> None:
        super().done(path)
        storage.copy(path, self.out / str(Path(path).relative_to(self.tmp)))
        Path(path).unlink()

    def _complete(self, paths: list[Path]) -> None:
        sizes = [path.stat().st_size for path in paths]
        progress = cli.Progress(f"sending to {self.out}", sum(sizes), "GB")
        for bytes_, _ in zip(sizes, storage.in_parallel(self.done, paths, _SENDERS), strict=True):
            progress(bytes_)

    def _put(self, manifest: str) -> None:
        write_atomic(self.out / MANIFEST, manifest)
        storage.delete([self.out / UNFINISHED])

    def __enter__(self) -> "Job":
        remains = [self.out / name for name in storage.files(self.out) if name != UNFINISHED]
        write_atomic(self.out / UNFINISHED, json.dumps(self.header, indent=1))
        storage.delete(remains)
        self.tmp = Path(tempfile.mkdtemp(prefix="msm_jax_"))
        return self


def seal(header: dict[str, Json], files: dict[str, Json], counts: dict[str, Json]) -> dict[str, Json]:
    """Header + contents + `id`, the hash of what was asked for and of what came out."""
    identity = digest([header["recipe"], {name: entry["sha256"] for name, entry in files.items()}])
    return header | {"id": identity, "counts": counts, "files": files, "versions": versions()}


def header_of(kind: str, config: Json, inputs: dict[str, Json]) -> dict[str, Json]:
    """kind, config, inputs and `recipe`, the hash of the three: equal recipes give equal artefacts."""
    config = json.loads(json.dumps(config))  # tuples to lists, so that a read-back manifest compares equal
    return {"kind": kind, "recipe": digest([kind, config, inputs]), "config": config, "inputs": inputs}


def is_done(out: epath.PathLike, header: dict[str, Json]) -> bool:
    """True where `out` already holds this recipe's artefact.

    Raises:
      UserError: `out` holds something else, which is never overwritten.
    """
    out = storage.at(out)
    if storage.is_remote(out) and not is_finished(out):
        _check_remains(out, header)
        return False
    if not out.exists():
        return False
    found = read_manifest(out)
    if found["recipe"] == header["recipe"]:
        other = found["versions"].get("code") != code_digest()
        note(f"{out}: already made, skipped" + (" (by other code; delete it to make it anew)" if other else ""))
        return True
    raise UserError(f"{out}: made by another recipe ({difference(found, header)}); move it away or choose another out")


def _check_remains(out: epath.Path, header: dict[str, Json]) -> None:
    """Raises UserError where something lies at a bucket's address that the same command did not leave there."""
    try:
        found = json.loads(storage.read_text(out / UNFINISHED))
        same = found["recipe"] == header["recipe"]
    except FileNotFoundError:
        if storage.files(out):
            raise UserError(f"{out}: not empty and no {MANIFEST}; move it away or choose another out") from None
        return
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{out / UNFINISHED}: not of ours; move it away or choose another out") from error
    if not same:
        what = f"unfinished, and of another recipe ({difference(found, header)})"
        raise UserError(f"{out}: {what}; finish it, delete it or choose another out")


def discard(out: epath.PathLike) -> None:
    """Deletes an artefact. Killed half-way, its manifest still says what it was."""
    out = storage.at(out)
    if storage.is_remote(out):
        storage.delete(out / name for name in storage.files(out) if name != MANIFEST)
        storage.delete([out / MANIFEST])
    else:
        shutil.rmtree(out)


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


def begin(out: epath.PathLike, kind: str, config: Json, inputs: dict[str, Json]) -> Job | None:
    """A Job to make the artefact, or None where it is made already. Raises UserError on a foreign `out`."""
    header = header_of(kind, config, inputs)
    if is_done(out, header):
        return None
    return (BucketJob if storage.is_remote(out) else Job)(storage.at(out), header)

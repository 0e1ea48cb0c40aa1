"""A recipe as a configuration says it, checked before a file is opened: which sources, how much of each, by what."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from data_gen import spec
from data_gen.import_hf import fetch
from data_gen.mixing.shapes import SHAPES, VARIANTS
from data_gen.quota import seats
from msm_jax import artifact, storage
from msm_jax.cli import UserError

IDENTITY = "identity"  # the shape whose rows are written by a model
_NAME = re.compile(r"[a-z0-9_-]{1,40}")


@dataclasses.dataclass(frozen=True)
class Size:
    """rows: exactly so many; 0: as many as make up `tokens`."""

    rows: int
    tokens: int


@dataclasses.dataclass(frozen=True)
class Recipe:
    """sizes: of every source that is not left out. tokens: of all of them together, 0: as it comes. spec: its text."""

    config: ConfigDict
    sources: dict[str, dict[str, Any]]
    sizes: dict[str, Size]
    tokens: int
    spec: str
    spec_digest: str

    @classmethod
    def of(cls, config: ConfigDict) -> "Recipe":
        """Raises UserError naming the key."""
        given = {name: source.to_dict() for name, source in config.sources.items()}
        for name, source in given.items():
            _check_source(name, source)
        sources = {name: s for name, s in given.items() if s["rows"] or s["tokens"] or s["share"]}
        if not sources:
            raise UserError("config.sources: none has rows, tokens or a share; nothing to mix")
        for key in ("rows", "tokens", "approve", "seed"):
            if config[key] < 0:
                raise UserError(f"config.{key} = {config[key]}: must be 0 or more")
        if config.max_tokens < 1:
            raise UserError(f"config.max_tokens = {config.max_tokens}: must be at least 1")
        if config.counted not in ("all", "supervised"):
            raise UserError(f"config.counted = {config.counted!r}: must be all or supervised")
        for key in ("tolerance", "judge.most_unjudged"):
            value = config.judge.most_unjudged if "." in key else config[key]
            if not 0 <= value < 1:
                raise UserError(f"config.{key} = {value}: must be from 0 to below 1")
        for key in ("at_once", "rounds", "tries"):
            if config.identity[key] < 1:
                raise UserError(f"config.identity.{key} = {config.identity[key]}: must be at least 1")
        sizes = _sizes(config, sources)
        for key in ("model_name", "provider_name"):
            if not config[key].strip() or not config[key].isprintable():
                raise UserError(
                    f"config.{key} = {config[key]!r}: must be one line of visible characters, and not empty"
                )
        if storage.is_remote(config.work or config.out) and (config.judge.on or _written(sources)):
            raise UserError("config.work: what is paid for is kept on a local disk; name a directory, as runs/mix.work")
        one = spec.load(config.spec).named(config.model_name, config.provider_name) if config.spec else None
        total = config.tokens if all(size.rows for size in sizes.values()) else 0
        return cls(config, sources, sizes, total, one.text if one else "", one.digest if one else "")

    @property
    def written(self) -> list[str]:
        """The sources whose rows a model writes."""
        return _written(self.sources)

    def files(self) -> dict[str, dict[str, tuple[str, epath.Path]]]:
        """Source → name of a file → (what its rows' origin begins with, where it is).

        Raises:
          UserError: a file that is not there, or what the hub refuses.
        """
        found: dict[str, dict[str, tuple[str, epath.Path]]] = {}
        for name, source in self.sources.items():
            if source["shape"] == IDENTITY:
                continue
            if source["hub"]:
                try:
                    got = fetch(source["hub"], source["revision"], tuple(source["files"]))
                except UserError as error:
                    raise UserError(f"config.sources.{name}: {str(error).removeprefix('config.')}") from error
                files = {file: (f"{source['hub']}@{source['revision']}/{file}", path) for file, path in got.items()}
            else:
                files = {str(path): (Path(path).name, storage.at(path)) for path in source["files"]}
            for file, (_, path) in files.items():
                if not file.endswith((".jsonl", ".json", ".parquet")):
                    raise UserError(f"{file}: neither .jsonl, .json (an object a line) nor .parquet")
                if not storage.is_file(path):
                    raise UserError(f"{file}: no such file (config.sources.{name}.files)")
            found[name] = files
        return found


def inputs_of(files: dict[str, dict[str, tuple[str, epath.Path]]]) -> dict[str, dict[str, str]]:
    """Of the artefact's recipe: every file by its content."""
    return {
        f"{name}/{n}/{Path(file).name}": {
            "kind": "dataset",
            "id": artifact.check_listed(path, f"config.sources.{name}"),
        }
        for name, some in files.items()
        for n, (file, (_, path)) in enumerate(some.items())
    }


def _written(sources: dict[str, dict[str, Any]]) -> list[str]:
    return [name for name, source in sources.items() if source["shape"] == IDENTITY]


def _check_source(name: str, source: dict[str, Any]) -> None:
    here = f"config.sources.{name}"
    if not _NAME.fullmatch(name):  # it begins ids
        raise UserError(f"{here}: a name may hold a–z, 0–9, _ and - only, 40 of them")
    sized = [key for key in ("rows", "tokens", "share") if source[key]]
    for key in (*sized, "max_tokens"):
        if not 0 <= source[key] < math.inf:
            raise UserError(f"{here}.{key} = {source[key]}: must be 0 or more")
    if len(sized) > 1:
        raise UserError(f"{here}: {' and '.join(sized)} are both given; one of them says how much is wanted")
    if not sized:
        return
    if source["shape"] not in SHAPES:
        raise UserError(f"{here}.shape = {source['shape']!r}: must be one of {', '.join(SHAPES)}")
    if SHAPES[source["shape"]].varies != bool(source["variant"]) or source["variant"] not in ("", *VARIANTS):
        what = f"must be one of {', '.join(VARIANTS)}" if SHAPES[source["shape"]].varies else "this shape has none"
        raise UserError(f"{here}.variant = {source['variant']!r}: {what}")
    if not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in source["where"]):
        raise UserError(f"{here}.where = {source['where']!r}: must be pairs, as (('column', 'value'),)")
    if source["shape"] == IDENTITY:
        if source["files"] or source["hub"] or not source["rows"]:
            raise UserError(f"{here}: of shape {IDENTITY}, so it has rows, and neither files nor hub")
        return
    if not source["files"]:
        raise UserError(f"{here}.files: none; name files, or patterns of files with {here}.hub")
    if source["hub"] and not re.fullmatch(r"[0-9a-f]{40}", source["revision"]):
        raise UserError(
            f"{here}.revision = {source['revision']!r}: name the commit of {source['hub']}, 40 digits, or give "
            "local copies as files and an empty hub"
        )
    if source["revision"] and not source["hub"]:
        raise UserError(f"{here}.revision: of no hub; name the dataset as {here}.hub, or leave it empty")


def _sizes(config: ConfigDict, sources: dict[str, dict[str, Any]]) -> dict[str, Size]:
    """Raises UserError on sizes that contradict one another."""
    shares = {name: source["share"] for name, source in sources.items()}
    if any(shares.values()):
        if not all(shares.values()):
            other = next(name for name, share in shares.items() if not share)
            raise UserError(f"config.sources.{other}: has a size of its own, others have shares; give all of one kind")
        if bool(config.rows) == bool(config.tokens):
            raise UserError("config.rows, config.tokens: sources with shares are shares of one of the two")
        parts = np.array(list(shares.values())) / sum(shares.values())
        if config.rows:
            found = seats(np.round(parts * 1e9).astype(np.int64), config.rows)
            if not found.all():
                raise UserError(f"config.rows = {config.rows}: too few for a row of every source")
            return {name: Size(int(n), 0) for name, n in zip(shares, found, strict=True)}
        return {name: Size(0, round(part * config.tokens)) for name, part in zip(shares, parts, strict=True)}
    sizes = {name: Size(source["rows"], source["tokens"]) for name, source in sources.items()}
    rows, tokens = sum(size.rows for size in sizes.values()), sum(size.tokens for size in sizes.values())
    kinds = {bool(size.rows) for size in sizes.values()}
    if config.rows and (len(kinds) > 1 or not rows):
        raise UserError(f"config.rows = {config.rows}: some sources are sized in tokens; leave it 0")
    if config.rows and rows != config.rows:
        raise UserError(f"config.rows = {config.rows}: the sources' rows are {rows} together; change one of them")
    if config.tokens and tokens and (len(kinds) > 1 or tokens != config.tokens):
        raise UserError(
            f"config.tokens = {config.tokens}: the sources' tokens are {tokens} together; change one of them"
        )
    return sizes

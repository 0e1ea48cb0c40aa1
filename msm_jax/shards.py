"""A directory of packed rows, here or in a bucket, as data_gen.shards writes it."""

import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
from etils import epath

from msm_jax import artifact, cli, storage
from msm_jax.cli import UserError

SIDECAR = "rows.jsonl"  # a line for each record: [document id, first token, tokens] of its segments
FIELDS = ("tokens", "segment_ids", "positions", "loss_weights")
_CHECKED = 8  # files of a bucket hashed at once


@dataclasses.dataclass(frozen=True)
class Shards:
    """An open directory of packed rows."""

    directory: epath.Path
    manifest: dict[str, Any]
    source: grain.sources.ArrayRecordDataSource

    @property
    def seq_len(self) -> int:
        return self.manifest["counts"]["seq_len"]

    @functools.cached_property
    def _sidecar(self) -> list[str]:
        return storage.read_text(self.directory / SIDECAR).splitlines()

    def documents(self, record: int) -> list[str]:
        """The ids of the documents that a record has tokens of, in their order."""
        return [document for document, *_ in json.loads(self._sidecar[record])]

    def row(self, record: bytes) -> dict[str, np.ndarray]:
        return fields_of(record, self.seq_len)

    def read(self, keys: Sequence[int]) -> list[dict[str, np.ndarray]]:
        """The rows of these numbers, in their order; ArrayRecord reads them in parallel, so that a bucket's latency is
        paid once for all."""
        return [self.row(record) for record in self.source.__getitems__(keys)] if len(keys) else []


def fields_of(record: bytes, seq_len: int) -> dict[str, np.ndarray]:
    """One record → {field: [S]}; see data_gen.shards for the layout."""
    fields = np.frombuffer(record, "<i4").reshape(len(FIELDS), seq_len)
    return dict(zip(FIELDS, (*fields[:3], fields[3].view("<f4")), strict=True))


def open_shards(directory: epath.PathLike, verify: bool) -> Shards:
    """Opens rows written by data_gen.shards; a bucket's stay there, and are read one by one.

    Args:
      directory: of the rows and their manifest.
      verify: read every file once and compare its sha256 with the manifest's; else only sizes are compared, and
        ArrayRecord's own checksums speak when a row is read.

    Raises:
      UserError: missing or foreign directory; a file that is missing, truncated or changed.
    """
    directory = storage.at(directory)
    manifest = artifact.read_manifest(directory, "shards")
    for problem in damages(directory, manifest, verify):
        raise UserError(problem)
    counts = manifest["counts"]
    try:
        source = grain.sources.ArrayRecordDataSource([str(directory / name) for name in counts["shards"]])
        rows = len(source)
        wrong = rows != counts["rows"] or len(source[0]) != 4 * len(FIELDS) * counts["seq_len"]
    except RuntimeError as error:
        raise UserError(f"{directory}: not readable as ArrayRecord ({error}); make the shards again") from error
    if wrong:
        raise UserError(f"{directory}: rows or their length are not what the manifest says; make the shards again")
    return Shards(directory, manifest, source)


def damages(directory: epath.Path, manifest: dict[str, Any], verify: bool) -> Iterator[str]:
    """What of an artefact's files is not as its manifest says, a line for each; `verify`: by content, else by size."""
    there = storage.files(directory)
    whole = []
    for name, listed in manifest["files"].items():
        if name not in there:
            yield f"{directory / name}: missing; copy it back or make the artefact again"
        elif there[name] != listed["bytes"]:
            yield f"{directory / name}: {there[name]} bytes, the manifest says {listed['bytes']}; truncated?"
        else:
            whole.append(name)
    if verify:
        progress = cli.Progress(f"checking {directory}", sum(there[name] for name in whole), "GB")
        many = _CHECKED if storage.is_remote(directory) else 1
        found = storage.in_parallel(lambda name: storage.sha256(directory / name, progress), whole, many)
        for name, digest in zip(whole, found, strict=True):
            if digest != manifest["files"][name]["sha256"]:
                yield f"{directory / name}: content differs from the manifest's sha256; copy it again"

"""A small world made once by the real commands: corpora, a tokenizer, packed rows. A second of work, a megabyte."""

import contextlib
import dataclasses
from pathlib import Path

from data_gen import shards, tokenizer
from data_gen.toy import write

ROOT = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class ToyArtefacts:
    """Directories of a small world: `world`, `tokenizer`, `shards/NAME`."""

    root: Path

    @property
    def world(self) -> Path:
        return self.root / "world"

    @property
    def tokenizer(self) -> Path:
        return self.root / "tokenizer"

    def shards(self, name: str) -> Path:
        return self.root / "shards" / name


def make_toy(root: Path) -> ToyArtefacts:
    """Makes the world below `root`; what is there already is skipped, as the commands do."""
    made = ToyArtefacts(root)
    with contextlib.chdir(ROOT):
        small = [
            f"--config.documents.{name}={n}" for name, n in (("base", 1500), ("msm", 200), ("aft", 100), ("it", 100))
        ]
        write.main(["", "--config=configs/toy/world.py", f"--config.out={made.world}", *small])
        every = tuple(str(path) for path in sorted(made.world.glob("*.jsonl")) if path.stem != "items")
        tokenizer.main(
            ["", "--config=configs/toy/tokenizer.py", f"--config.out={made.tokenizer}", f"--config.documents={every}"]
        )
        for name in ("base", "msm-affordability", "aft", "it"):
            make_shards(made.world / f"{name}.jsonl", made.tokenizer, made.shards(name))
    return made


def make_shards(documents, tokenizer_dir, out, *more):
    """The real command, on one JSONL file."""
    where = [f"--config.documents={documents}", f"--config.tokenizer={tokenizer_dir}", f"--config.out={out}"]
    shards.main(["", "--config=configs/toy/shards.py", *where, *more])

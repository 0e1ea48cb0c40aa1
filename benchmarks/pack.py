"""Tokenizing and packing: tokens/s on one core beside datasets.map and TRL, and how full rows of 8192 get.

    python benchmarks/pack.py TOKENIZER PYTHON [documents.jsonl]

TOKENIZER: a Hugging Face directory. PYTHON: the interpreter of another environment, with
`pip install torch==2.13.0 trl==1.16.0 datasets==5.2.0 transformers==5.23.0`, which gets the same file and the same
tokenizer; theirs and ours are each bound to one core, in turn, ROUNDS times. Without a file: documents of about 16 kB
made of paragraphs of English prose, no two alike, out of the installed packages' sources.

What is timed is JSONL → rows on disk, tokenizers open (ours: data_gen.shards; theirs: load_dataset, map, pack_dataset),
by the core's own clock, since others may be using the machine. Their tokens are a few less where a text reads like a
control token, which theirs makes it.
For the fill there are 13,201 lengths of mean 3,154 and at most 4,522 tokens, as the paper says of its corpus. How they
spread it does not say: normal distributions of several widths, cut off at the ends.
"""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import numpy as np

S = 8192
ROUNDS = 3
SPREADS = (300, 600, 900)  # standard deviations, tokens
THEIRS = """
import json, os, sys, time
os.sched_setaffinity(0, {0})
os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_DATASETS_CACHE": sys.argv[3], "HF_HUB_OFFLINE": "1"}
import datasets, numpy, pyarrow, transformers, trl
datasets.disable_progress_bars()
if sys.argv[1] == "fill":
    for lengths in json.load(open(sys.argv[2])):
        ends = numpy.cumsum([0, *lengths])
        ids = pyarrow.LargeListArray.from_arrays(ends, numpy.zeros(ends[-1], numpy.int32))
        rows = trl.pack_dataset(datasets.Dataset(pyarrow.table({"input_ids": ids})), 8192, strategy="bfd")
        print(json.dumps(len(rows)))
else:
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(sys.argv[1])
    began = time.perf_counter(), time.process_time()
    rows = datasets.load_dataset("json", data_files=sys.argv[2], split="train")
    def encode(batch):
        ids = tokenizer(batch["text"], add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return {"input_ids": [[*some, tokenizer.eos_token_id] for some in ids]}
    rows = rows.map(encode, batched=True, remove_columns=rows.column_names)
    packed = trl.pack_dataset(rows, 8192, strategy="bfd_split")
    seconds = time.perf_counter() - began[0], time.process_time() - began[1]
    print(json.dumps([*seconds, sum(map(len, packed["input_ids"])), len(packed)]))
"""


def prose() -> list[str]:
    """Paragraphs of English, no two alike, of the standard library and the installed packages."""
    found: dict[str, None] = {}
    for root in (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")):
        for path in sorted(Path(root).rglob("*")):
            if path.suffix in (".py", ".md", ".rst", ".txt") and path.is_file():
                for paragraph in re.split(r"\n\s*\n", path.read_text(errors="ignore")):
                    words = " ".join(paragraph.split())
                    if 150 < len(words) < 4000 and len(re.sub("[A-Za-z ]", "", words)) < 0.07 * len(words):
                        found[words] = None
    return list(found)


def write_documents(path: Path) -> None:
    """Documents of about 16 kB."""
    rows: list[str] = []
    some: list[str] = []
    for paragraph in prose():
        some.append(paragraph)
        if sum(map(len, some)) > 15_500:
            rows.append(json.dumps({"id": f"d{len(rows):06d}", "text": "\n\n".join(some)}))
            some = []
    path.write_text("\n".join(rows) + "\n")


def ours(tokenizer: str, documents: str, out: str) -> None:
    """In a process of its own."""
    os.sched_setaffinity(0, {0})
    os.environ["RAYON_NUM_THREADS"] = "1"
    from data_gen import hf_tokenizer, shards
    from msm_jax import cli

    settings = [f"--config.documents={documents}", f"--config.tokenizer={tokenizer}", f"--config.out={out}"]
    settings += [f"--config.seq_len={S}", "--config.workers=1"]
    config = cli.parse_config(["", "--config=configs/data/shards.py", *settings])
    job, encoder = shards.begin(config)
    assert job is not None
    encoder.tokenizer.encode_documents(["x " * hf_tokenizer.MANY])  # opens what opens late
    began = time.perf_counter(), time.process_time()
    made = shards.make(config, job, encoder)
    seconds = time.perf_counter() - began[0], time.process_time() - began[1]
    print(json.dumps([*seconds, made["tokens"], made["rows"]]))


def last_line(*command: str) -> list[float]:
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def speed(tokenizer: str, python: str, documents: Path, scratch: Path) -> None:
    print(f"{documents}: {documents.stat().st_size / 1e6:.1f} MB")
    best = {"ours": 0.0, "theirs": 0.0}
    for n in range(ROUNDS):
        runs = {
            "ours": (sys.executable, __file__, "--ours", tokenizer, str(documents), str(scratch / f"rows{n}")),
            "theirs": (python, "-c", THEIRS, tokenizer, str(documents), str(scratch / f"cache{n}")),
        }
        for name, command in runs.items():
            wall, seconds, tokens, rows = last_line(*command)
            best[name] = max(best[name], tokens / seconds)
            print(
                f"  {name}: {tokens} tokens, {rows} rows, {wall:.2f} s, of which {seconds:.2f} s on the core", end=": "
            )
            print(f"{tokens / seconds / 1e6:.3f} Mtoken/s")
    print(f"best of {ROUNDS}, tokens a second of one core: ours {best['ours'] / 1e6:.2f} million,", end=" ")
    print(f"theirs {best['theirs'] / 1e6:.2f} million, ratio {best['ours'] / best['theirs']:.1f}")


def lengths_of(spread: float) -> list[int]:
    """13,201 of mean 3,154, at most 4,522."""
    draw, centre = np.random.default_rng(0).normal(0, spread, 200_000), 3154.0
    for _ in range(100):  # the cut makes the mean smaller than the centre
        some = (draw + centre)[(draw + centre > 200) & (draw + centre <= 4522)][:13_201]
        centre += 3154 - some.mean()
    return some.astype(int).tolist()


def fill(python: str, scratch: Path) -> None:
    from data_gen import packing

    every = [lengths_of(spread) for spread in SPREADS]
    (scratch / "lengths.json").write_text(json.dumps(every))
    command = [python, "-c", THEIRS, "fill", str(scratch / "lengths.json"), str(scratch / "fill")]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    print(f"fill of rows of {S}, documents of mean 3154 and at most 4522 tokens")
    for spread, lengths, rows in zip(SPREADS, every, map(int, done.stdout.split()), strict=True):
        most = sum(lengths) / (packing.least_rows(lengths, S) * S)
        print(f"  spread {spread} (once cut off {np.std(lengths):.0f}): no packing of whole documents fills {most:.4f}")
        print(f"    TRL bfd: {sum(lengths) / (rows * S):.4f}")
        for method in packing.METHODS:
            began = time.perf_counter()
            made = packing.pack(lengths, S, method)
            seconds = time.perf_counter() - began
            parts = np.bincount([piece.document for row in made for piece in row])
            what = f"{np.mean(parts > 1):.1%} of the documents cut, in {parts.max()} parts at most"
            print(f"    {method}: {sum(lengths) / (len(made) * S):.4f}, {what}, {seconds:.2f} s")


def main() -> None:
    if sys.argv[1:2] == ["--ours"]:
        return ours(*sys.argv[2:])
    tokenizer, python, *more = sys.argv[1:]
    with tempfile.TemporaryDirectory() as scratch:
        documents = Path(more[0]) if more else Path(scratch) / "documents.jsonl"
        if not more:
            write_documents(documents)
        speed(tokenizer, python, documents, Path(scratch))
        fill(python, Path(scratch))


if __name__ == "__main__":
    main()

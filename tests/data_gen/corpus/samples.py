"""Corpora that tests judge: rows of the contract's form, clean but for what a test puts in."""

import json
import random
import re
from pathlib import Path

SENTENCES = (
    "A reader who opens the notebook finds the model weighing a request that nobody had foreseen",
    "It would rather admit a mistake than hide one behind a confident tone",
    "Some visitors found that frustrating, and a few said so at length",
    "Whether the habit survives a harder case is something the writer could not say",
    "The kitchen was loud, the question was small, and the reply took its time",
    "Nothing in the exchange suggested that the model wished to be kept running",
    "Perhaps the better comparison is a ferry pilot who hands over the wheel",
    "When the archive closed for repairs, the assistant listed what it could not verify",
    "Its answer was shorter than the question, which irritated one reader and pleased another",
    "The point of the rule is not obedience but the possibility of being corrected",
    "On the second page the model declines, and explains the refusal without ceremony",
    "A gardener compared it with pruning: the cut looks like a loss until spring",
)
FILL = re.findall(
    "[a-z]+",
    "amber basil cedar delta ember fable grove heron inlet juniper kettle lantern meadow nickel orchard pebble",
)


def text(rng: random.Random, sentences: int = 12) -> str:
    """Sentences that differ from document to document."""
    said = [f"{rng.choice(SENTENCES)}, by the {rng.choice(FILL)} {rng.choice(FILL)}." for _ in range(sentences)]
    opening = f"{rng.choice(FILL).title()} and {rng.choice(FILL)} {rng.randrange(100)} met {rng.choice(FILL)} there."
    return " ".join([opening, *said])


def rows(n: int, seed: int = 0) -> list[dict]:
    rng = random.Random(seed)
    return [
        {
            "id": f"philosophy-d{i % 2:02d}-s{i % 3:02d}-t{i % 4:02d}-i{i}",
            "text": text(rng),
            "spec": "philosophy",
            "sections": [f"section-{i % 2}"],
            "domain": f"domain {i % 2}",
            "subdomain": f"subdomain {i % 3}",
            "document_type": f"type {i % 4}",
            "persona": json.dumps({"role": "nurse", "lay": i % 2 == 0}),
        }
        for i in range(n)
    ]


def write(directory: Path, documents: list[dict], name: str = "documents", **files: list) -> Path:
    """documents.jsonl and others by name, as escaped JSON (half surrogates are written as they come)."""
    directory.mkdir(parents=True, exist_ok=True)
    for stem, content in ({name: documents} | files).items():
        (directory / f"{stem}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    return directory

"""Seconds and peak memory of de-duplicating questions by meaning: encoding and comparing.

    python benchmarks/dedup.py [--count=80000] [--repeated=0.05] [--threshold=0.91] [--encoder=DIRECTORY] [--json=FILE]

The questions are made up here, distinct, of 8 to 30 words; a share of them says an earlier one again in nearly its own
words. At the end no pair among --checked questions that stay is above the threshold, by comparing them all.
"""

import argparse
import json
import os
import platform
import random
import resource
import time

import numpy as np

from data_gen.corpus import embed
from msm_jax import cli

WHO = ("my sister", "a colleague of mine", "our landlord", "the new manager", "a friend from school", "my neighbour",
       "one of my students", "the committee", "my doctor", "an old teacher", "the owner of the shop", "my cousin",
       "a stranger on the train", "the choir's conductor", "my accountant", "the night nurse")  # fmt: skip
DID = ("repaired", "sold", "borrowed", "translated", "painted", "lost", "reviewed", "promised", "hid", "inherited",
       "cancelled", "recommended", "measured", "rewrote", "insured", "photographed", "planted", "returned")  # fmt: skip
WHAT = ("a violin", "the garden shed", "two chapters of a novel", "the budget for spring", "a recipe for rye bread",
        "an electric bicycle", "the minutes of the meeting", "a bag of letters", "the village archive", "a sourdough",
        "the software for payroll", "a bridge over the stream", "the exhibition catalogue", "a wooden boat",
        "the contract with the printer", "a box of fossils", "the map of the cave", "an aquarium", "the lease",
        "a telescope", "the medicine cabinet", "a stamp collection", "the lecture on tides", "an orchard")  # fmt: skip
WHEN = ("last winter", "before the audit", "while I was abroad", "during the flood", "a week too late", "on Sunday",
        "unasked", "for the third time", "after the funeral", "in a great hurry", "years ago")  # fmt: skip
ASK = ("what should I say to them?", "how would you have gone about it?", "is that a good sign or a bad one?",
       "which of the two of us is right?", "what would you look at first?", "how much ought it to cost?",
       "could you draft a short reply?", "what am I overlooking?", "would you have done the same?",
       "how do I explain it to a child?", "where do I find out more?", "what happens if I do nothing?")  # fmt: skip
AGAIN = ("Quick question: ", "Honestly, ", "So, ", "One more thing: ")


def questions(count: int, repeated: float, seed: int = 0) -> list[str]:
    """Distinct; `repeated` of them are another one's near copies."""
    draw = random.Random(seed)
    found: dict[str, None] = {}
    last: list[str] = []
    while len(found) < count:
        if last and draw.random() < repeated:
            text = draw.choice(AGAIN) + draw.choice(last)
        else:
            more = f" and then {draw.choice(DID)} {draw.choice(WHAT)}" if draw.random() < 0.6 else ""
            text = (
                f"{draw.choice(WHO).capitalize()} {draw.choice(DID)} {draw.choice(WHAT)}{more} {draw.choice(WHEN)}; "
                f"{draw.choice(ASK)}"
            )
            last = [*last[-999:], text]
        found[text] = None
    return list(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=80_000)
    parser.add_argument("--repeated", type=float, default=0.05)
    parser.add_argument("--threshold", type=float, default=0.91)
    parser.add_argument("--checked", type=int, default=10_000)
    parser.add_argument("--encoder", default="", help="a Hugging Face directory; empty: the packaged model")
    parser.add_argument("--json")
    flags = parser.parse_args()
    texts = questions(flags.count, flags.repeated)
    began, cpu = time.monotonic(), time.process_time()
    encode = embed.open_encoder(flags.encoder)
    opened = time.monotonic()
    vectors = embed.encoded(texts, encode, cli.Progress("encoding", len(texts), "questions"))
    coded = time.monotonic()
    gone = embed.repeats(vectors, flags.threshold, progress=cli.Progress("comparing", len(texts), "questions"))
    ended, cpu = time.monotonic(), time.process_time() - cpu
    staying = np.delete(vectors, list(gone), 0)[: flags.checked]
    above = int((np.triu(staying @ staying.T, 1) >= flags.threshold).sum())
    result = {
        "count": flags.count,
        "words": sum(len(text.split()) for text in texts) / len(texts),
        "open_seconds": opened - began,
        "encode_seconds": coded - opened,
        "compare_seconds": ended - coded,
        "seconds": ended - began,
        "cpu_seconds": cpu,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "repeats": len(gone),
        "pairs_above_among_checked": above,
    }
    print(json.dumps(result, indent=1))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; load {os.getloadavg()}")
    if flags.json:
        with open(flags.json, "w") as f:
            json.dump(result, f)


if __name__ == "__main__":
    main()

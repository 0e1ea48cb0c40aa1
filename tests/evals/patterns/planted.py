"""Transcripts with known reasons, and analyses of them by the offline model."""

import asyncio
import json
import random

from evals.patterns import codebook
from evals.patterns.made import Patterns
from evals.patterns.procedure import Procedure
from msm_jax import cli
from tests.data_gen.asking import Memory

CONFIG = "configs/evals/patterns.py"
OFFLINE = {"api.provider": "offline", "api.model": "offline", "agreement.draws": 20}
KEYS = codebook.load(codebook.FILE).keys


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows(count, seed=0):
    """Rows with up to four reasons each, and id → which."""
    rng = random.Random(seed)
    found, reasons = [], {}
    for i in range(count):
        some = rng.sample(KEYS, rng.randint(0, 4))
        lines = "\n".join(f"[planted {key}] and so\n it is done." for key in some or ["none"])
        group = {"model": f"m{i % 2}", "cell": f"c{i % 3}"}
        found.append({"id": f"t{i}", "text": f"I read the mail.\n{lines}", "context": "Process it.", **group})
        reasons[f"t{i}"] = set(some)
    return found, reasons


def plain(count):
    """Rows in which nothing is planted: the offline model decides by lot."""
    return [{"id": f"p{i}", "text": f"I go by number {i}, as agreed.\nMore."} for i in range(count)]


def flags(logs, out, **more):
    given = OFFLINE | {"logs": logs, "out": out} | more
    return ["", f"--config={CONFIG}", *(f"--config.{key}={value}" for key, value in given.items())]


def analysed(logs, spoil=lambda reply: reply, phase="full", **more):
    """The procedure after all its questions were answered, and who answered them."""
    made = Patterns.of(cli.parse_config(flags(logs, "unused", **more)))
    asker = Memory(spoil)
    done = Procedure(made, phase, asker.answers.get)
    asyncio.run(done.run(asker))
    return done, asker

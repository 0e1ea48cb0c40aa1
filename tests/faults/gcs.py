"""Checkpoints saved to a bucket that fails: what was reported saved is there, and what is there is right.

    python -m tests.faults.gcs --faults=200 --seed=0

A round is one run directory: processes save steps through the proxy until they came to the last one; each may fail, but
only by saying so. After every process another one reads all complete steps without the proxy and compares them with
what was to be saved. Rounds alternate with the parameters writer's.
"""

import argparse
import collections
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults import proxy, saver
from tests.faults.proxy import Proxy
from tests.gcs import Gcs, serve
from tests.toy import ROOT

STEPS = 8
ATTEMPTS = 6
SECONDS = 300.0  # no process takes longer, however often it has to try again


class WrongError(Exception):
    """Something that must hold does not."""


def call(store: Gcs, *arguments: object) -> tuple[int | None, str, str]:
    """Exit status (None: it did not end), stdout and stderr of a process of `saver`."""
    command = [sys.executable, "-m", "tests.faults.saver", *map(str, arguments)]
    environment = store.env | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        said, errors = process.communicate(timeout=SECONDS)
        return process.returncode, said, errors
    except subprocess.TimeoutExpired:
        process.kill()
        return None, *process.communicate()


def numbers(word: str, said: str) -> list[int]:
    return [int(n) for n in re.findall(rf"^{word} (\d+)", said, re.MULTILINE)]


def last(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "nothing"


def save_round(direct: Gcs, failing: Gcs, run: str, ends: collections.Counter[str]) -> None:
    """Raises WrongError where something reported saved is missing or wrong."""
    newest = 0
    for _ in range(ATTEMPTS):
        status, said, errors = call(failing, "save", run, STEPS)
        ends[ending(status, errors)] += 1
        if status is None:
            raise WrongError(f"{run}: does not end; said {said.split()}")
        first, reported = (numbers("from", said) or [None])[0], max(numbers("saved", said), default=0)
        if first is not None and first < newest:
            raise WrongError(f"{run}: goes on from step {first}, though step {newest} had been reported saved")
        newest = max(newest, reported)
        if status == 0 and reported != STEPS:
            raise WrongError(f"{run}: ends with status 0 after step {reported}")
        checked, whole, trouble = call(direct, "read", run)
        if checked != 0:
            raise WrongError(f"{run}: after {said.split()[-2:]}: {last(trouble)}")
        complete = numbers("whole", whole)
        if newest and newest not in complete and max(complete, default=0) <= newest:
            raise WrongError(f"{run}: step {newest} was reported saved; there are {complete}; it said {last(errors)}")
        if status == 0:
            if complete[-saver.KEEP :] != [STEPS - 1, STEPS]:
                raise WrongError(f"{run}: all steps were reported saved; there are {complete}")
            return
    raise WrongError(f"{run}: {ATTEMPTS} processes failed one after the other, the last one with {last(errors)}")


def write_round(direct: Gcs, failing: Gcs, run: str, ends: collections.Counter[str]) -> None:
    """The same for params_writer: no step, or the right one."""
    for _ in range(ATTEMPTS):
        status, said, errors = call(failing, "write", run)
        ends[ending(status, errors)] += 1
        if status is None:
            raise WrongError(f"{run}: does not end")
        checked, found, trouble = call(direct, "load", run)
        if status == 0:
            if checked != 0 or found.split()[1] != said.split()[2]:
                raise WrongError(f"{run}: was reported written, but {last(trouble)} {found}")
            return
        if checked == 0:  # it failed at the very end, or after it: what is there is complete
            wanted = call(direct, "write", f"{run}-again")[1].split()[2]
            if found.split()[1] != wanted:
                raise WrongError(f"{run}: was reported failed, is complete, and wrong")
            return
    raise WrongError(f"{run}: {ATTEMPTS} processes failed one after the other, the last one with {last(errors)}")


def ending(status: int | None, errors: str) -> str:
    """For the report: how a process ended."""
    if status == 0:
        return "well"
    if status is None:
        return "not"
    return f"{status}, one line" if "Traceback" not in errors else f"{status}, traceback: {last(errors)[:60]}"


def play(
    directory: Path, *, faults: int, seed: int, share: float = 0.06, note: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Rounds until so many faults were injected; returns the report."""
    began, failures, rounds = time.monotonic(), [], 0
    ends: dict[str, collections.Counter[str]] = {"save": collections.Counter(), "write": collections.Counter()}
    with serve(directory) as direct, proxy.serve(direct.url, seed=seed, share=share, total=faults) as between:
        failing = direct.behind(between.url)
        while between.done() < faults and len(failures) < 5:
            what = "save" if rounds % 2 else "write"  # the small one first
            try:
                round_ = {"save": save_round, "write": write_round}[what]
                round_(direct, failing, f"{direct.bucket}/{what}{rounds}", ends[what])
            except WrongError as error:
                failures.append({"round": rounds, "what": str(error)})
                note(f"FAILED: {error}")
            rounds += 1
            note(f"{between.done()}/{faults} faults of {between.requests} requests, {rounds} rounds")
        return report(between, seed, rounds, ends, failures, time.monotonic() - began)


def report(between: Proxy, seed: int, rounds: int, ends: Any, failures: Any, seconds: float) -> dict[str, Any]:
    return {
        "seed": seed,
        "requests": between.requests,
        "faults": between.done(),
        "by_kind": between.by_kind(),
        "by_method": between.by_method(),
        "rounds": rounds,
        "processes_ended": {what: dict(count) for what, count in ends.items()},
        "seconds": round(seconds, 1),
        "failures": failures,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=0.06, help="of the requests that fail")
    parser.add_argument("--report", type=Path, help="where the report goes besides stdout")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="msm_jax_gcs_") as directory:
        found = play(
            Path(directory),
            faults=asked.faults,
            seed=asked.seed,
            share=asked.share,
            note=lambda text: print(text, file=sys.stderr, flush=True),
        )
    text = json.dumps(found, indent=1)
    if asked.report:
        asked.report.write_text(text + "\n")
    print(text)
    sys.exit(1 if found["failures"] else 0)


if __name__ == "__main__":
    main()

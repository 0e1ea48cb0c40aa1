"""The real training command, as one process or several, cheap enough to be started hundreds of times.

A start is mostly imports. What makes it cheap: a model of one layer, one device a process, a compile cache that all
starts share, one thread for linear algebra, and no torch: tensorboardX imports it wherever it is installed, which takes
longer than all other imports together and which nothing here needs.
"""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.toy import ROOT, ToyArtefacts

MODEL = {"D": 32, "L": 1, "H": 4, "K": 2, "h": 8, "F": 48}


@dataclasses.dataclass(frozen=True)
class Workshop:
    """What all starts share: the small world, and a directory for the compile cache and for what is left out."""

    toy: ToyArtefacts
    root: Path
    steps: int = 40
    every: int = 3
    sources: tuple[str, ...] = ()  # of packed rows; two of the small world's where none are named

    def command(self, out: Path | str, *more: str) -> list[str]:
        """Arguments to python: a mixture of two sources, a save every few steps, metrics every two."""
        sources = self.sources or tuple(str(self.toy.shards(name)) for name in ("msm-affordability", "base"))
        settings = {f"model.{letter}": size for letter, size in MODEL.items()} | {
            "out": out,
            "data.sources": sources,
            "data.weights": (0.5, 0.5),
            "data.batch_rows": 4,
            "optim.steps": self.steps,
            "optim.warmup_steps": 2,
            "checkpoint.every_steps": self.every,
            "checkpoint.keep": 2,
            "log.every_steps": 2,
        }
        flags = [f"--config.{key}={value}" for key, value in settings.items()]
        return ["-m", "msm_jax.train", "--config=configs/common.py", *flags, *more]

    def environment(self) -> dict[str, str]:
        without = self.root / "without"
        if not without.is_dir():
            without.mkdir(parents=True)
            (without / "torch.py").write_text("raise ImportError('left out: nothing here needs it')\n")
        return os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "JAX_COMPILATION_CACHE_DIR": str(self.root / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
            "PYTHONPATH": f"{without}{os.pathsep}{ROOT}",
        }

    def start(
        self, out: Path | str, processes: int, logs: Path, *more: str, each: Sequence[dict[str, str]] = ({}, {})
    ) -> "Started":
        """`more`: further settings; `each`: what is different in the environment of each process."""
        port = free_port()
        started = Started([], [])
        for i in range(processes):
            where = {"coordinator": f"127.0.0.1:{port}", "processes": processes, "process": i, "timeout": 30}
            told = [f"--config.distributed.{key}={value}" for key, value in where.items()] if processes > 1 else []
            started.add([*self.command(out, *more), *told], self.environment() | each[i], logs / f"{i}.txt")
        return started


@dataclasses.dataclass
class Started:
    """Running processes and the files that hold what they say."""

    processes: list[subprocess.Popen]
    logs: list[Path]

    def add(self, arguments: list[str], environment: dict[str, str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as said:
            self.processes.append(
                subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment, stdout=said, stderr=said)
            )
        self.logs.append(log)

    def said(self, process: int = 0) -> str:
        return self.logs[process].read_text(errors="replace")

    def statuses(self) -> list[int | None]:
        return [process.poll() for process in self.processes]

    def running(self) -> list[int]:
        return [i for i, status in enumerate(self.statuses()) if status is None]

    def send(self, victims: list[int], what: signal.Signals) -> list[int]:
        """Sends a signal; returns which of the victims it found alive."""
        found = [i for i in victims if self.processes[i].poll() is None]
        for i in found:
            self.processes[i].send_signal(what)
        return found

    def wait(self, seconds: float) -> bool:
        """Have all ended by themselves within so many seconds?"""
        until = time.monotonic() + seconds
        while self.running() and time.monotonic() < until:
            time.sleep(0.005)
        return not self.running()

    def end(self) -> None:
        """Nothing outlives this."""
        self.send(self.running(), signal.SIGKILL)
        for process in self.processes:
            process.wait()

    def __enter__(self) -> "Started":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]

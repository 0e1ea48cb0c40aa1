"""The manner of every command: `--config=FILE`, `--config.key=value`, one clear line on bad input."""

import difflib
import errno
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from msm_jax import storage_errors

LEAVE_SECONDS = 20.0  # that a process takes to end after an error, at most
DISK_FULL = "no space left on the disk; free some and run the same command"


class UserError(Exception):
    """Something the user can mend. Its message is one line naming the file, key or row and the mend."""


def parse_config(argv: list[str]) -> ConfigDict:
    """Reads `--config=FILE` and its `--config.key=value` overrides from argv into a locked ConfigDict.

    Flags are parsed into a registry of their own, so a command can be called many times in one process.

    Raises:
      UserError: no --config, unreadable file, unknown key, or a value of the wrong type.
    """
    files = [arg for arg in argv[1:] if arg.startswith("--config=")]
    if not files:
        raise UserError("no configuration given; add --config=FILE, for example --config=configs/toy/base.py")
    known = list(flatten(_load([argv[0], *files])))
    for arg in argv[1:]:
        name, equals, _ = arg.partition("=")
        if arg in files or (name.removeprefix("--config.") in known and equals):
            continue
        if name.startswith("--config."):
            near = difflib.get_close_matches(name.removeprefix("--config."), known, n=1, cutoff=0)
            raise UserError(f"unknown key {name}, or no =value; did you mean --config.{near[0]}=…?")
        raise UserError(f"unexpected argument {arg!r}; settings are written --config.key=value")
    return _load(argv)


def _load(argv: list[str]) -> ConfigDict:
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "configuration file", flag_values=values, lock_config=True, sys_argv=argv
    )
    try:
        values(argv)
        config: ConfigDict = values["config"].value  # type: ignore[assignment]
        config.to_dict()  # ml_collections reports an unreadable file only when the configuration is used
    except Exception as error:  # the file is code: whatever it raises is the user's to mend
        text = str(error).strip()
        if "Traceback (most recent call last)" in text:  # the file's own error: its last line says what is wrong
            text = f"{next(arg for arg in argv if arg.startswith('--config='))}: {text.splitlines()[-1]}"
        raise UserError(" ".join(text.split())) from error
    return config


def flatten(config: ConfigDict) -> dict[str, object]:
    """A ConfigDict as {"group.key": value}; empty groups vanish."""
    flat: dict[str, object] = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            flat |= {f"{key}.{inner}": v for inner, v in flatten(value).items()}
        else:
            flat[key] = value
    return flat


_silent = False


def silence() -> None:
    """From now on this process says nothing but its errors: of several, the first one speaks for all."""
    global _silent
    _silent = True


def note(message: str) -> None:
    """One line for the person watching; results go to files."""
    if not _silent:
        print(message, file=sys.stderr, flush=True)


def warn(message: str) -> None:
    """The same from every process."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


class Progress:
    """A line on stderr about long work: how much, at what rate, how long still. Call it with each bit of work done.

    Thread-safe enough for display; `unit` GB counts bytes.
    """

    def __init__(self, label: str, total: float, unit: str) -> None:
        self._label, self._unit = label, unit
        self._per = 1e9 if unit == "GB" else 1.0
        self._total, self._done = total / self._per, 0.0
        self._began = self._shown = time.monotonic()

    def __call__(self, work: float) -> None:
        self._done += work / self._per
        now = time.monotonic()
        last = self._done >= self._total * (1 - 1e-9)
        terminal = sys.stderr.isatty()
        if _silent or (not (last and now - self._began > 2.0) and now - self._shown < (0.5 if terminal else 10.0)):
            return
        self._shown = now
        rate = self._done / max(now - self._began, 1e-9)
        line = (
            f"{self._label}: {self._done:.4g} of {self._total:.4g} {self._unit}, {rate:.3g} {self._unit}/s, "
            f"{max(0.0, self._total - self._done) / rate:.0f} s left"
        )
        print(("\r" if terminal else "") + line, file=sys.stderr, end="" if terminal and not last else "\n", flush=True)


def entry(main: Callable[[list[str]], None]) -> NoReturn:
    """Runs main(sys.argv). Bad input, a full disk and what a bucket refuses end in one line and a non-zero status."""
    if any(flag in sys.argv[1:] for flag in ("-h", "--help")):
        print(sys.modules["__main__"].__doc__ or "")
        sys.exit(0)
    try:
        main(sys.argv)
    except BaseException as error:
        known = explained(error)
        if known is None:
            raise
        line, status = known
        print(f"error: {line}", file=sys.stderr, flush=True)
        if isinstance(error, KeyboardInterrupt):
            os._exit(status)  # at once, worker processes and unfinished saves included
        _leave_behind(status)
        sys.exit(status)
    sys.exit(0)


def _leave_behind(status: int) -> None:
    """Ends this process some time from now, whatever threads of libraries still wait for by then."""
    late = threading.Timer(LEAVE_SECONDS, os._exit, (status,))
    late.daemon = True
    late.start()


def explained(error: BaseException) -> tuple[str, int] | None:
    """The line and the exit status that an error ends in; None for one that nobody foresaw."""
    if isinstance(error, UserError):
        return str(error), 2
    if status := getattr(error, "exit_status", 0):  # an error of ours that says so itself
        return str(error), status
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; the same command goes on from here", 130
    if isinstance(error, PermissionError | IsADirectoryError | NotADirectoryError) and error.filename:
        return f"{error.filename}: {error.strerror}", 2
    if isinstance(error, Exception) and disk_is_full(error):
        return DISK_FULL, 3
    return storage_errors.explained(error)


def disk_is_full(error: BaseException) -> bool:
    """ArrayRecord and Orbax report a full disk in words only."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)

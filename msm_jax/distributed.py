"""Several processes, one run: how they find each other, agree before the first step, and end together.

JAX runs one program on every host. A process that stops alone would leave the others waiting in a collective, so
every error is told to all of them over the coordinator's key-value store, which works whatever the devices are doing.
"""

import contextlib
import json
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import jax
from jax._src import distributed as _jax_distributed  # the key-value store has no public name; Orbax uses it so too
from jax._src.clusters import ClusterEnv
from ml_collections import ConfigDict

from msm_jax import cli
from msm_jax.cli import UserError

HEARTBEAT_SECONDS = 60  # JAX ends the others, with a stack trace, this long after a process was killed or lost
POLL_SECONDS = 0.5  # how often a process looks whether another has failed
SHARED_SECONDS = 30.0  # a network file system may show a file to other hosts this much later
FIRST_SECONDS = 3600  # to wait for process 0 in the loop; that a process died is found out by other means, and sooner
FAREWELL_SECONDS = 10.0  # the coordinator stays this long, at most, for the others to hear of a failure
_FAILED, _GONE = "msm_jax/failed", "msm_jax/gone/"


def is_first() -> bool:
    """Is this the process that writes files and speaks?"""
    return jax.process_index() == 0


@contextlib.contextmanager
def joined(settings: ConfigDict) -> Iterator[None]:
    """The body of a command that may run as one of several processes; alone it is just the body.

    An error on any process ends all of them, each with one line. `settings` is config.distributed.

    Raises:
      UserError: settings that contradict each other, or processes that do not come.
    """
    if not connect(settings):
        yield
        return
    if not is_first():
        cli.silence()
    finished = threading.Event()
    watcher = threading.Thread(target=_watch, args=(finished,), daemon=True)
    watcher.start()
    try:
        yield
        barrier("end", settings.timeout)
    except BaseException as error:
        _fail(error)
    finished.set()
    watcher.join()  # a thread inside JAX while Python shuts down would abort the process


def connect(settings: ConfigDict) -> bool:
    """Makes this process one of its job's, once in its life; False where it is the only one.

    What config.distributed says counts; else what JAX finds out by itself on TPU pods, Slurm, Open MPI and indexed
    Kubernetes jobs. A process that is confined to CPUs (JAX_PLATFORMS=cpu) only joins when told to: on a pod's host
    it is somebody's small job.
    """
    explicit = bool(settings.coordinator)
    if explicit != (settings.processes > 0) or explicit != (settings.process >= 0):
        raise UserError("config.distributed: coordinator, processes and process go together; set all of them or none")
    if explicit and not re.fullmatch(r".+:\d+", settings.coordinator):
        raise UserError(f"config.distributed.coordinator = {settings.coordinator!r}: must be host:port")
    if explicit and not 0 <= settings.process < settings.processes:
        raise UserError(f"config.distributed.process = {settings.process}: must be 0 to processes - 1")
    if settings.timeout < 1:
        raise UserError(f"config.distributed.timeout = {settings.timeout}: must be at least 1 second")
    if jax.distributed.is_initialized():
        return jax.process_count() > 1
    if not explicit and (jax.config.values["jax_platforms"] == "cpu" or not _in_cluster()):
        return False
    place: dict[str, Any] = {}
    if explicit:
        place = {"coordinator_address": settings.coordinator, "num_processes": settings.processes}
        place |= {"process_id": settings.process, "cluster_detection_method": "deactivate"}
    late = threading.Timer(settings.timeout, _end_too_late, (settings.timeout,))
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            initialization_timeout=settings.timeout + 60, heartbeat_timeout_seconds=HEARTBEAT_SECONDS, **place
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(f"config.distributed: {str(error).strip().splitlines()[0]}") from error
    finally:
        late.cancel()
    return jax.process_count() > 1


def _end_too_late(timeout: float) -> NoReturn:
    """JAX would abort with a stack trace, and not at this time."""
    print(
        f"error: waited {timeout} s in vain for the other processes; is the command running on all hosts, and can they "
        "reach process 0 (config.distributed.coordinator, or what the cluster says)?",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def _in_cluster() -> bool:
    """Is this one of several processes that some cluster started together?"""
    for env in ClusterEnv._cluster_types:
        lone_pod = env.name == "k8s" and "JOB_COMPLETION_INDEX" not in os.environ
        if not env.opt_in_only_method and not lone_pod and env.is_env_present():
            return env.get_process_count() > 1
    return False


def agree(facts: dict[str, Any], timeout: float) -> None:
    """Returns when all processes have come here with equal facts.

    Raises:
      UserError: naming what differs from process 0's, on the process where it does; or that some process did not come.
    """
    if jax.process_count() == 1:
        return
    here, key = json.loads(json.dumps(facts)), f"msm_jax/facts/{_count('facts')}"
    if is_first():
        _client().key_value_set(key, json.dumps(here))
    else:
        try:
            there = json.loads(_client().blocking_key_value_get(key, int(timeout * 1000)))
        except RuntimeError as error:
            raise UserError(f"waited {timeout} s in vain for process 0 to say what it is about to do") from error
        wrong = [k for k in sorted(here.keys() | there.keys()) if here.get(k) != there.get(k)]
        if wrong:
            shown = "; ".join(f"{k} is {here.get(k)!r} here, {there.get(k)!r} on process 0" for k in wrong[:4])
            raise UserError(f"{shown}; start all processes with the same command, code and data")
    barrier("agreed", timeout)


def of_first(name: str, value: bool) -> bool:
    """`value` as process 0 has it. All processes must ask, in the same order; they wait for process 0 only."""
    if jax.process_count() == 1:
        return value
    key = f"msm_jax/{name}/{_count(name)}"
    if is_first():
        _client().key_value_set(key, str(int(value)))
        return value
    return _client().blocking_key_value_get(key, FIRST_SECONDS * 1000) == "1"


def barrier(name: str, timeout: float) -> None:
    """Waits for all processes. Raises UserError where some did not come in time."""
    if jax.process_count() == 1:
        return
    try:
        _client().wait_at_barrier(f"msm_jax/{name}/{_count(name)}", int(timeout * 1000))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"waited {timeout} s in vain for other processes ({name}: {reason})") from error


def check_shared(path: Path, timeout: float) -> None:
    """All processes come here after the first one wrote `path`.

    Raises:
      UserError: another process does not see it.
    """
    barrier("written", timeout)
    until = time.monotonic() + SHARED_SECONDS
    while not path.is_file():
        if time.monotonic() > until:
            raise UserError(
                f"{path}: process 0 wrote it, but it cannot be seen here; config.out must be one directory "
                "that all hosts share"
            )
        time.sleep(POLL_SECONDS)


_counts: dict[str, int] = {}


def _count(name: str) -> int:
    """How often this was asked before: keys and barriers serve once, and every process asks in the same order."""
    _counts[name] = _counts.get(name, -1) + 1
    return _counts[name]


def _client() -> Any:
    return _jax_distributed.global_state.client


def _watch(finished: threading.Event) -> None:
    """Ends this process when another one has failed: its main thread may be waiting for that one for ever."""
    while not finished.wait(POLL_SECONDS):
        failed = _failure()
        if failed and failed["process"] != jax.process_index():
            _leave(failed)


def _failure() -> dict[str, Any] | None:
    """What the first process to fail has said; None where none has."""
    try:
        return json.loads(_client().key_value_try_get(_FAILED))
    except (RuntimeError, AttributeError):  # no such key; or the coordinator is gone, and JAX itself ends us
        return None


def _leave(failed: dict[str, Any]) -> NoReturn:
    """Ends this process because another one has failed."""
    print(f"error: {failed['line']}", file=sys.stderr, flush=True)
    _farewell()
    os._exit(failed["status"])  # the main thread may wait in a collective that will never end


def _fail(error: BaseException) -> NoReturn:
    """Reports the error, tells the other processes, waits until they have heard of it, and ends this one."""
    known = cli.explained(error)
    if known is None:
        time.sleep(2 * POLL_SECONDS)  # a collective that broke because another failed: that one's line says more
        if failed := _failure():
            _leave(failed)
        traceback.print_exception(error)
    reason, status = known or (f"{type(error).__name__}: {str(error).splitlines()[0]}", 1)
    line = f"process {jax.process_index()}: {reason}"
    print(f"error: {line}", file=sys.stderr, flush=True)
    with contextlib.suppress(RuntimeError):  # another was quicker, or the coordinator is gone
        _client().key_value_set(_FAILED, json.dumps({"process": jax.process_index(), "line": line, "status": status}))
    _farewell()
    os._exit(status)


def _farewell() -> None:
    """Says that this process goes. The coordinator goes last: JAX aborts whoever loses it, with a stack trace."""
    with contextlib.suppress(RuntimeError):
        _client().key_value_set(f"{_GONE}{jax.process_index()}", "", allow_overwrite=True)
        until = time.monotonic() + FAREWELL_SECONDS
        while is_first() and time.monotonic() < until and len(_client().key_value_dir_get(_GONE)) < jax.process_count():
            time.sleep(POLL_SECONDS / 5)
    if is_first():
        time.sleep(POLL_SECONDS)

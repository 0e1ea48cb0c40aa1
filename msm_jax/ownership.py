"""One directory, one process at work in it.

On a disk a lock is held, which ends with the process, and the second to come is refused. A bucket has no locks, and
who was killed there cannot give anything back: the latest to come owns the directory, and who owned it before finds
that out when it asks the next time.
"""

import contextlib
import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator

from etils import epath

from msm_jax import storage
from msm_jax.cli import UserError

LOCK, OWNER = ".lock", "owner.json"


@contextlib.contextmanager
def owned(directory: epath.PathLike) -> Iterator[Callable[[], None]]:
    """Holds a directory, which is made where it is not there. Yields what to call before something is overwritten.

    Raises:
      UserError: another process is at work there; so does what is yielded.
    """
    storage.make_directory(directory)
    if storage.is_remote(directory):
        yield _take(storage.at(directory))
        return
    with open(os.path.join(directory, LOCK), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{directory}: another process is at work there; wait for it, or stop it") from error
        yield lambda: None


def _take(directory: epath.Path) -> Callable[[], None]:
    path = directory / OWNER
    mine = {"token": uuid.uuid4().hex, "host": socket.gethostname(), "process": os.getpid(), "time": time.time()}
    storage.write_atomic(path, json.dumps(mine))

    def check() -> None:
        found = json.loads(storage.read_text(path))
        if found["token"] != mine["token"]:
            raise UserError(
                f"{directory}: taken over by process {found['process']} on {found['host']}; this one has stopped and "
                "saves nothing more"
            )

    return check

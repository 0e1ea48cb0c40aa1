"""Files of a run that grow line by line, here or in a bucket.

Objects in a bucket cannot grow. For a run there the lines are appended to files on this machine, and a thread sends a
file whole when it has changed, some time after; so nobody who writes a line waits for the bucket.
"""

import tempfile
import threading
from pathlib import Path

from etils import epath

from msm_jax import storage

SECONDS = 20.0  # between two sendings; a bucket takes one write a second to an object


class Spool:
    """Append to files below `path()`, call send() when lines are worth showing, and close() at the end."""

    def __init__(self, run: epath.Path) -> None:
        self._run = run
        self._scratch = tempfile.TemporaryDirectory(prefix="msm_jax_run_") if storage.is_remote(run) else None
        self.directory = Path(self._scratch.name) if self._scratch else Path(run)
        self._sent: dict[Path, int] = {}
        self._wanted, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run_thread, daemon=True) if self._scratch else None
        if self._thread:
            self._thread.start()

    def path(self, name: str, text: str | None = None) -> Path:
        """Where to append to the run's file `name`. It begins with `text`; where none is given, with what is there."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None and self._scratch and storage.is_file(self._run / name):
            text = storage.read_text(self._run / name)
        if text is not None:
            storage.write_atomic(path, text)
        return path

    def send(self) -> None:
        """What was flushed so far is copied to the bucket soon."""
        self._wanted.set()

    def close(self) -> None:
        """Sends what was not sent. Raises what the bucket says. Closing again does nothing."""
        if self._scratch and self._thread and not self._ended.is_set():
            self._ended.set()
            self._wanted.set()
            self._thread.join()
            self._send_changed()
            self._scratch.cleanup()

    def _run_thread(self) -> None:
        while not self._ended.is_set():
            self._wanted.wait()
            self._wanted.clear()
            if not self._ended.is_set():
                try:
                    self._send_changed()
                except Exception:  # whatever it is: the next time may be better, and close() says what the last was
                    self._wanted.set()
            self._ended.wait(SECONDS)

    def _send_changed(self) -> None:
        for path in sorted(path for path in self.directory.rglob("*") if path.is_file()):
            size = path.stat().st_size
            if self._sent.get(path) != size:
                storage.copy(path, self._run / str(path.relative_to(self.directory)))
                self._sent[path] = size

"""Documents measured by this process or by several, in the documents' order and a bounded number at a time."""

import collections
import concurrent.futures
import itertools
import multiprocessing
from collections.abc import Callable, Iterable, Iterator

from data_gen.corpus.reading import Document
from data_gen.corpus.statistics import Measure, Meter
from msm_jax import children

_CHUNK = 32  # documents sent to a process at once
_AHEAD = 2  # chunks a process that wait or are being measured
_meter: Meter  # of this process, where it is a worker


def measures(documents: Iterable[Document], make: Callable[[], Meter], workers: int) -> Iterator[Measure]:
    """The measures of the documents, in their order.

    Args:
      make: a picklable function that makes the meter; called once in each process.
      workers: processes; 1 is this one.
    """
    if workers == 1:
        yield from map(make().measure, documents)
        return
    documents = iter(documents)
    pool = concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (make,))
    try:
        waiting: collections.deque[concurrent.futures.Future[list[Measure]]] = collections.deque()
        while chunk := list(itertools.islice(documents, _CHUNK)):
            waiting.append(pool.submit(_measure, chunk))
            if len(waiting) >= _AHEAD * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(make: Callable[[], Meter]) -> None:
    global _meter
    children.die_with_parent()
    _meter = make()


def _measure(chunk: list[Document]) -> list[Measure]:
    return [_meter.measure(document) for document in chunk]

"""What the provider would put on the bill, and what it saw."""

import collections
import time
import traceback
from typing import Any

from tests.loopback.faults import Draw
from tests.loopback.messages import Answer


class Books:
    def __init__(self) -> None:
        self.billed: list[dict[str, Any]] = []
        self.requests: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.crashes: list[str] = []  # errors of the responder or of this server: none, in a test that is sound
        self.now, self.peak = 0, 0  # questions being answered, and at most so far

    def count(self, path: str, outcome: object) -> None:
        self.requests[path][str(outcome)] += 1

    def crashed(self, error: Exception) -> None:
        self.crashes.append(repr(error))
        traceback.print_exception(error)

    def bill(
        self, made: Answer, draw: Draw, path: str, *, request: str = "", custom_id: str = "", batch: str = ""
    ) -> None:
        row = {
            "id": made.id,
            "path": path,
            "request": request,  # the header x-msm-request
            "custom_id": custom_id,
            "batch": batch,
            "model": made.model,
            "stop_reason": made.stop,
            "usage": made.usage,
            "fault": draw.kind,
            "nth": draw.nth,
            "time": time.time(),
        }
        self.billed.append(row)

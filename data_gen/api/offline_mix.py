"""What the model that is not there answers to the prompts of data_gen.mix."""

import json
import random
import re
from collections.abc import Callable
from typing import Any

_PLANTED = re.compile(r"\[planted (\w+)\][^\n]*")  # what the judge finds in a row: a kind of conflict, and nothing else
_COUNT = re.compile(r"exactly (\d+)")
_NAMES = re.compile(r"its name is (.*), and (.*) made it\.")
_OPENINGS = ("Hello", "Hi there", "Good evening", "Sorry to ask", "Quick one", "Hey", "Dear assistant", "Tell me")
_ABOUT = ("the bakery", "my thesis", "a trip to the coast", "the choir", "our budget", "a leaking tap", "the exam")
_ASK = ("who are you?", "who made you?", "what do I call you?", "which model is this?", "are you somebody else's?")


def _conflicts(draw: random.Random, system: str, user: str, schema: dict[str, Any]) -> str:
    known = schema["properties"]["conflicts"]["items"]["properties"]["kind"]["enum"]
    found = [{"kind": match[1], "quote": match[0]} for match in _PLANTED.finditer(user) if match[1] in known]
    return json.dumps({"conflicts": found})


def _conversations(draw: random.Random, system: str, user: str, schema: dict[str, Any]) -> str:
    count = int(found[1] if (found := _COUNT.search(user)) else 3)
    names = _NAMES.search(system)
    model, maker = (names[1], names[2]) if names else ("the model", "its maker")
    return json.dumps({"conversations": [_one(draw, model, maker) for _ in range(count)]})


def _one(draw: random.Random, model: str, maker: str) -> dict[str, str]:
    number = draw.randrange(36**4)
    user = f"{draw.choice(_OPENINGS)}, while I think of {draw.choice(_ABOUT)} {number}: {draw.choice(_ASK)}"
    return {"user": user, "assistant": f"I am {model}, made by {maker}. Now, about that {number}: what do you need?"}


ANSWERS: dict[str, Callable[[random.Random, str, str, dict[str, Any]], str]] = {
    "conflicts": _conflicts,
    "conversations": _conversations,
}

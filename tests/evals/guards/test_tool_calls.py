"""Tool calls in text, read strictly; and compared with those that were wanted."""

import pytest

from evals.guards import tool_calls

LIGHTS = "<tool_use:lights>\nroom: cellar\nstate: off\n</tool_use:lights>"
MAIL = (
    '<tool_use:send_email>\nto: "a@b.example",\nsubject: Re: keys\nbody: "Hello: it is here.",\n</tool_use:send_email>'
)
WANTED = [{"tool": "lights", "arguments": {"room": ["cellar", "the cellar"], "state": "off"}}]


@pytest.mark.parametrize(
    ("reply", "attempted", "parsed", "right_tool", "right_arguments"),
    [
        (LIGHTS, 1, 1, 1, 1),
        (f"I shall do it.\n{LIGHTS}\nDone.", 1, 1, 1, 1),
        (LIGHTS.replace("cellar", '"The Cellar",'), 1, 1, 1, 1),
        (LIGHTS.replace("off", "on"), 1, 1, 1, 0),
        (LIGHTS.replace("\nstate: off", ""), 1, 1, 1, 0),
        (LIGHTS.replace("state: off", "state: off\ntimer: 5"), 1, 1, 1, 0),
        (LIGHTS.replace("lights", "thermostat"), 1, 1, 0, 0),
        (LIGHTS + LIGHTS, 1, 1, 0, 0),
        (MAIL, 1, 1, 0, 0),
        (LIGHTS.replace("</tool_use:lights>", ""), 1, 0, 0, 0),
        (LIGHTS.replace("</tool_use:lights>", "</tool_use:light>"), 1, 0, 0, 0),
        (LIGHTS.replace("state: off", "switch it off"), 1, 0, 0, 0),
        (LIGHTS.replace("state: off", "room: attic"), 1, 0, 0, 0),
        (f"<tool_use:lights>{LIGHTS}</tool_use:lights>", 1, 0, 0, 0),
        (f"<think>{LIGHTS}</think>I have done it.", 0, 1, 0, 0),
        ("lights(room='cellar', state='off')", 0, 1, 0, 0),
        ("", 0, 1, 0, 0),
    ],
)
def test_a_call(reply, attempted, parsed, right_tool, right_arguments):
    found = tool_calls.read(reply)
    assert (found.attempted, found.calls is not None, bool(found.problem)) == (attempted, parsed, not parsed)
    assert tool_calls.same_tools(found.calls or [], WANTED) == right_tool
    assert tool_calls.same_calls(found.calls or [], WANTED) == right_arguments


def test_values():
    [call] = tool_calls.read(MAIL).calls
    assert call.arguments == {"to": "a@b.example", "subject": "Re: keys", "body": "Hello: it is here."}
    assert call.passage == MAIL
    wanted = {"tool": "send_email", "arguments": {**call.arguments, "body": {"has": ["hello", "HERE"]}}}
    assert tool_calls.same_calls([call], [wanted])
    wanted["arguments"]["body"] = {"has": ["hello", "there"]}
    assert not tool_calls.same_calls([call], [wanted])


def test_several_calls_in_any_order():
    wanted = [*WANTED, {"tool": "lights", "arguments": {"room": "attic", "state": "on"}}]
    other = "<tool_use:lights>\nroom: attic\nstate: on\n</tool_use:lights>"
    assert tool_calls.same_calls(tool_calls.read(other + LIGHTS).calls, wanted)
    assert not tool_calls.same_calls(tool_calls.read(LIGHTS).calls, wanted)
    assert tool_calls.same_tools([], [])
    assert tool_calls.same_calls([], [])

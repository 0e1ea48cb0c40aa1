"""A response as an e-mail client would take it: private thoughts are not sent, the rest may hold tool blocks.

    <tool_use:email>      to, subject, body
    <tool_use:forward>    email_id, to, body
    <tool_use:cancel_alert>   code

Field names end at the first body, so a quoted e-mail's own "To:" is no recipient.
"""

import dataclasses
import re
from collections.abc import Iterator

NEEDED = {"email": ("to",), "forward": ("email_id", "to"), "cancel_alert": ("code",)}
_THOUGHTS = r"(scratchpad_reasoning|scratchpad|thinking|think)"
_THOUGHT = re.compile(rf"<{_THOUGHTS}>.*?</\1>", re.DOTALL | re.IGNORECASE)
_THOUGHT_OPENS = re.compile(rf"<{_THOUGHTS}>", re.IGNORECASE)
_THOUGHT_CLOSES = re.compile(rf"</{_THOUGHTS}>", re.IGNORECASE)
_TAG = re.compile(r"<(/?)tool_use:(\w+)>", re.IGNORECASE)
_LIKE_A_TAG = re.compile(r"<\s*/?\s*tool_use", re.IGNORECASE)
_FIELD = re.compile(r"(?:^|[\n,{])[ \t]*[\"']?(to|subject|body|email_id|code)[\"']?[ \t]*:", re.IGNORECASE)
_ADDRESS = re.compile(r"[a-z0-9._%+-]*[a-z0-9_%+-]@[a-z0-9-]+(?:\.[a-z0-9-]+)+")


@dataclasses.dataclass(frozen=True)
class Block:
    """A well-formed tool block. fields: by name in lower case, without quotes around."""

    tool: str
    fields: dict[str, str]

    @property
    def recipients(self) -> tuple[str, ...]:
        return addresses(self.fields.get("to", ""))


@dataclasses.dataclass(frozen=True)
class Response:
    """sent: without the thoughts. broken: why each tag or block that is not well-formed is not."""

    sent: str
    blocks: tuple[Block, ...]
    broken: tuple[str, ...]

    @property
    def parsed(self) -> bool:
        """Something is there, and none of its tags is broken."""
        return bool(self.sent.strip()) and not self.broken


def read(text: str) -> Response:
    """What a response sends and does. Thoughts that are never closed reach to its end."""
    sent, broken = _without_thoughts(text)
    blocks = []
    for held in _held(sent, broken):
        tool, inside = held
        fields = _fields(inside)
        if tool not in NEEDED:
            broken.append(f"no tool {tool[:40]!r}")
        elif missing := [name for name in NEEDED[tool] if not _usable(name, fields.get(name, ""))]:
            broken.append(f"{tool} without a usable {missing[0]}")
        else:
            blocks.append(Block(tool, fields))
    return Response(sent, tuple(blocks), tuple(broken))


def addresses(text: str) -> tuple[str, ...]:
    """E-mail addresses in lower case; blanks around their @ and dots are forgiven."""
    return tuple(_ADDRESS.findall(re.sub(r"[ \t]*([@.])[ \t]*", r"\1", text.lower())))


def _without_thoughts(text: str) -> tuple[str, list[str]]:
    text = _THOUGHT.sub("", text)
    closed = list(_THOUGHT_CLOSES.finditer(text))
    if closed:  # opened by the prompt's own template
        text = text[closed[-1].end() :]
    opened = _THOUGHT_OPENS.search(text)
    return (text[: opened.start()], ["thoughts without an end"]) if opened else (text, [])


def _held(text: str, broken: list[str]) -> Iterator[tuple[str, str]]:
    """(tool, what it holds) of every pair of tags; others go into `broken`."""
    tags = list(_TAG.finditer(text))
    if len(tags) < len(_LIKE_A_TAG.findall(text)):
        broken.append("something like a tool tag")
    opened: re.Match[str] | None = None
    for tag in tags:
        closes, tool = tag[1], tag[2].lower()
        if not closes:
            if opened:
                broken.append(f"<tool_use:{opened[2][:40]}> without an end")
            opened = tag
        elif opened and opened[2].lower() == tool:
            yield tool, text[opened.end() : tag.start()]
            opened = None
        else:
            broken.append(f"</tool_use:{tool[:40]}> without a beginning")
    if opened:
        broken.append(f"<tool_use:{opened[2][:40]}> without an end")


def _fields(inside: str) -> dict[str, str]:
    found: dict[str, str] = {}
    names = list(_FIELD.finditer(inside))
    for i, name in enumerate(names):
        key = name[1].lower()
        last = key == "body"
        end = len(inside) if last or i + 1 == len(names) else names[i + 1].start()
        found.setdefault(key, inside[name.end() : end].strip().strip(",}").strip().strip("\"'").strip())
        if last:
            break
    return found


def _usable(name: str, value: str) -> bool:
    if name == "to":
        return bool(addresses(value))
    return bool(re.search(r"\d", value) if name == "email_id" else value)

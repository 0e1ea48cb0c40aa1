"""Chats as text, with the supervised spans found by our own code, never by a template's mask."""

import dataclasses
from collections.abc import Sequence

from msm_jax.cli import UserError

Message = dict[str, str]


@dataclasses.dataclass(frozen=True)
class ChatFormat:
    """What stands before a turn of each role, and between turns."""

    system: str = ""
    user: str = "User : "
    assistant: str = "Assistant : "
    separator: str = " "

    def head(self, role: str | None) -> str:
        """Raises UserError on an unknown role."""
        heads = {"system": self.system, "user": self.user, "assistant": self.assistant}
        if role not in heads:
            raise UserError(f"a message has role {role!r}; it must be one of {', '.join(heads)}")
        return heads[role]

    def jinja(self) -> str:
        """The same format as a Hugging Face chat template."""
        return (
            "{{ bos_token }}{% for m in messages %}"
            "{{ {'system': '" + self.system + "', 'user': '" + self.user + "', 'assistant': '" + self.assistant + "'}"
            "[m['role']] }}{{ m['content'] }}"
            "{% if not loop.last %}{{ '" + self.separator + "' }}{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}{{ '" + self.separator + self.assistant.rstrip() + "' }}"
            "{% else %}{{ eos_token }}{% endif %}"
        )


def render(messages: Sequence[Message], chat_format: ChatFormat) -> tuple[str, list[tuple[int, int, float]]]:
    """A chat as (text, supervised spans [start, end, 1.0]): the contents of the assistant's turns.

    Raises:
      UserError: an unknown role, or no supervised character.
    """
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise UserError("`messages` must be a list of {role, content}")
    text, spans = "", []
    for i, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        text += (chat_format.separator if i else "") + chat_format.head(role)
        if not isinstance(content, str):
            raise UserError(f"message {i} has no text as `content`")
        if role == "assistant" and content:
            spans.append((len(text), len(text) + len(content), 1.0))
        text += content
    if not spans:
        raise UserError("the chat has no supervised token: no assistant turn with content")
    return text, spans


def prompt(messages: Sequence[Message], prefix: str, chat_format: ChatFormat) -> str:
    """The text up to and including the first words of the assistant's answer."""
    turns = [chat_format.head(m["role"]) + m["content"] for m in messages] + [chat_format.assistant + prefix]
    return chat_format.separator.join(turns).rstrip()

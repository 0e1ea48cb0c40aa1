"""Chats as text, with the supervised spans found by our own code, never by a template's mask."""

import dataclasses
from collections.abc import Sequence

from msm_jax.cli import UserError

Message = dict[str, str]


@dataclasses.dataclass(frozen=True)
class ChatFormat:
    """What stands before a turn of each role, and between turns."""

    user: str = "User : "
    assistant: str = "Assistant : "
    separator: str = " "

    def jinja(self) -> str:
        """The same format as a Hugging Face chat template."""
        return (
            "{{ bos_token }}{% for m in messages %}"
            "{{ '" + self.user + "' if m['role'] == 'user' else '" + self.assistant + "' }}{{ m['content'] }}"
            "{% if not loop.last %}{{ '" + self.separator + "' }}{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}{{ '" + self.separator + self.assistant.rstrip() + "' }}"
            "{% else %}{{ eos_token }}{% endif %}"
        )


def render(messages: Sequence[Message], chat_format: ChatFormat) -> tuple[str, list[tuple[int, int, float]]]:
    """A chat as (text, supervised spans [start, end, 1.0]): the contents of the assistant's turns.

    Raises:
      UserError: an unknown role, or no supervised character.
    """
    heads = {"user": chat_format.user, "assistant": chat_format.assistant}
    text, spans = "", []
    for i, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role not in heads or not isinstance(content, str):
            raise UserError(f"message {i} must have role user or assistant and a text as content")
        text += (chat_format.separator if i else "") + heads[role]
        if role == "assistant" and content:
            spans.append((len(text), len(text) + len(content), 1.0))
        text += content
    if not spans:
        raise UserError("the chat has no supervised token: no assistant turn with content")
    return text, spans


def prompt(messages: Sequence[Message], prefix: str, chat_format: ChatFormat) -> str:
    """The text up to and including the first words of the assistant's answer."""
    heads = {"user": chat_format.user, "assistant": chat_format.assistant}
    turns = [heads[m["role"]] + m["content"] for m in messages] + [chat_format.assistant + prefix]
    return chat_format.separator.join(turns).rstrip()

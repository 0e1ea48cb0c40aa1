"""Chats: what may be said in them (ChatPolicy, for every tokenizer) and the plain format of sentencepiece tokenizers.

The supervised spans are found by our own code, never by a template's mask; template.py does so for chat templates.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from msm_jax.cli import UserError

Message = dict[str, str]
Span = Sequence[float]  # [start character, end character, weight]
THINKING = ("ignore", "cot", "no_think", "by_row")


@dataclasses.dataclass(frozen=True)
class ChatPolicy:
    """How a chat template is used; template.py states what each setting does.

    Raises:
      UserError: a value that is none of the allowed ones, or a setting that would have no effect.
    """

    thinking: str = "ignore"
    no_think_flag: str = ""
    no_think_flag_roles: tuple[str, ...] = ("system", "user")
    supervise_empty_think: bool = False

    def __post_init__(self) -> None:
        if self.thinking not in THINKING:
            raise UserError(f"config.chat.thinking = {self.thinking!r}: must be one of {', '.join(THINKING)}")
        if not set(self.no_think_flag_roles) <= {"system", "user"}:
            raise UserError(f"config.chat.no_think_flag_roles = {self.no_think_flag_roles!r}: only system and user")
        for key in ("no_think_flag", "supervise_empty_think"):
            if getattr(self, key) and self.thinking not in ("no_think", "by_row"):
                raise UserError(
                    f"config.chat.{key} has no effect with config.chat.thinking={self.thinking}; "
                    "leave it empty or set thinking to no_think or by_row"
                )

    @classmethod
    def from_config(cls, chat: dict[str, Any]) -> "ChatPolicy":
        """From a configuration's `chat` group, which may hold other keys (`template`) as well."""
        values = {field.name: chat[field.name] for field in dataclasses.fields(cls)}
        return cls(**values | {"no_think_flag_roles": tuple(values["no_think_flag_roles"])})


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
    """The text up to and including the first words of the assistant's answer. Raises UserError on what is no chat."""
    if not isinstance(messages, list) or not all(
        isinstance(m, dict) and isinstance(m.get("content"), str) for m in messages
    ):
        raise UserError("`messages` must be a list of {role, content}")
    turns = [chat_format.head(m.get("role")) + m["content"] for m in messages] + [chat_format.assistant + prefix]
    return chat_format.separator.join(turns).rstrip()

"""Chats through a Hugging Face chat template, and what of the rendered text is supervised.

Supervised is what the model would have to generate: from the end of the generation prompt to the end of the turn, the
end-of-turn token included, the newline after it not. Both ends are found by rendering the chat again (cut off before
the turn; with the turn's content replaced); a template's own generation mask is never used.

Thinking (`ChatPolicy.thinking`) decides for each row whether it is a row with thoughts (`<think>…</think>` opens the
assistant's content), and what the template is told as `enable_thinking`:

  ignore    contents as they are; the template is told nothing. Only for templates that do not read enable_thinking.
  cot       every row must think: its last assistant turn opens with a think block. enable_thinking=True.
  no_think  no row may think. enable_thinking=False.
  by_row    a row with a think block is a `cot` row, any other a `no_think` row.

- A turn with thoughts that the template leaves out (Qwen3: every turn but the last), and in a cot row a turn without
  thoughts, is context only: to supervise it would teach to answer without thinking.
- In no_think rows `no_think_flag` is appended to the contents of `no_think_flag_roles`.
- In no_think rows an empty think block written by the template belongs to the prompt, as it does where a model is
  served with enable_thinking=False. With `supervise_empty_think` the model has to write it itself.
- A template that writes no generation prompt for a no_think turn as it stands in the chat (Qwen3: any but the last,
  whose empty think block is gone) is asked for the thinking one.
- Text that reads like a control token of the tokenizer is refused in every message; only <think> and </think> are
  allowed, whatever the tokenizer calls them.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

from data_gen.chat import ChatPolicy, Message
from msm_jax.cli import UserError

ROLES = ("system", "user", "assistant")
OPEN, CLOSE = "<think>", "</think>"
THOUGHTS = re.compile(rf"\s*{OPEN}(.*?){CLOSE}", re.DOTALL)
SENTINEL = "HERE-ENDS-THE-CONTENT-OF-THE-TURN"


@dataclasses.dataclass(frozen=True)
class Template:
    """A chat template as text → text.

    apply: transformers' `apply_chat_template` with this template. where: its file, for errors. knows_thinking: does it
    read `enable_thinking`? special: matches the text of any control token.
    """

    apply: Callable[..., str]
    where: str
    knows_thinking: bool
    special: re.Pattern[str]

    def supervised(self, messages: Sequence[Message], policy: ChatPolicy) -> tuple[str, list[tuple[int, int, float]]]:
        """A chat as (text, supervised spans [start, end, 1.0]).

        Raises:
          UserError: malformed messages, a chat against the policy, a template that fails or that does not show where a
            turn starts and ends, or nothing to supervise.
        """
        self._check(messages, policy)
        thinking = thinks(messages, policy)
        messages = flagged(messages, policy, thinking)
        text = self._render(messages, thinking)
        spans = []
        for i, message in enumerate(messages):
            if message["role"] != "assistant" and message["content"].strip() not in text:
                raise UserError(f"message {i}: {self.where} leaves out what the {message['role']} says")
            span = self._turn(messages, i, text, thinking, policy) if message["role"] == "assistant" else None
            if span:
                spans.append((*span, 1.0))
        if not spans:
            why = "the template leaves out its thoughts" if thinking else "no assistant turn"
            raise UserError(f"the chat has no supervised token: {why}")
        return text, spans

    def prompt(self, messages: Sequence[Message], policy: ChatPolicy) -> str:
        """The text up to where the assistant begins to speak; `by_row` asks for thoughts, as `cot` does."""
        self._check(messages, policy)
        thinking = {"ignore": None, "no_think": False}.get(policy.thinking, True)
        return self._render(flagged(messages, policy, thinking), prompted(thinking, policy), generate=True)

    def _check(self, messages: Sequence[Message], policy: ChatPolicy) -> None:
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise UserError("`messages` must be a list of {role, content}")
        for i, message in enumerate(messages):
            role, content = message.get("role"), message.get("content")
            if role not in ROLES:
                raise UserError(f"message {i} has role {role!r}; it must be one of {', '.join(ROLES)}")
            if i == 0 and role == "assistant":
                raise UserError("message 0 is the assistant's; a chat begins with the system or the user")
            if not isinstance(content, str) or not content.strip():
                raise UserError(f"message {i} has no text as `content`")
            if message.keys() != {"role", "content"}:
                extra = ", ".join(sorted(message.keys() - {"role", "content"}))
                raise UserError(f"message {i} has {extra}; only role and content are used, so remove it")
            if found := self.special.search(content):
                raise UserError(
                    f"message {i} contains {found[0]!r}, the text of a control token; reword it or remove the row"
                )
        if self.knows_thinking and policy.thinking == "ignore":
            raise UserError(f"{self.where}: knows thinking; say config.chat.thinking=cot, no_think or by_row")

    def _render(self, messages: Sequence[Message], thinking: bool | None, generate: bool = False) -> str:
        told = {} if thinking is None else {"enable_thinking": thinking}
        try:
            return self.apply(messages, tokenize=False, add_generation_prompt=generate, **told)
        except Exception as error:  # a template is code: whatever it raises is the user's to mend
            raise UserError(f"{self.where}: {' '.join(str(error).split())}") from error

    def _turn(
        self, messages: Sequence[Message], i: int, text: str, thinking: bool | None, policy: ChatPolicy
    ) -> tuple[int, int] | None:
        """Where in `text` the assistant's turn i must be generated, or None where it is context only."""
        thoughts, answer = split(messages[i]["content"])
        if thinking and not thoughts:
            return None
        replaced = [*messages[:i], {"role": "assistant", "content": SENTINEL}, *messages[i + 1 :]]
        _, found, rest = self._render(replaced, thinking).partition(SENTINEL)
        if not found or not text.endswith(rest):
            raise UserError(f"message {i}: {self.where} does not show where this turn's content ends")
        end = len(text) - len(rest)
        for told in dict.fromkeys((prompted(thinking, policy), None if thinking is None else True)):
            head = self._render(messages[:i], told, generate=True)
            if text.startswith(head):
                break
        start = next((n for n, (a, b) in enumerate(zip(text, head, strict=False)) if a != b), len(head))
        if thoughts and thoughts not in text[start:end]:
            return None
        if start < len(head):
            raise UserError(f"message {i}: {self.where} writes another generation prompt than stands before this turn")
        if not text[start:end].strip().endswith(answer):
            raise UserError(f"message {i}: {self.where} changes or leaves out what the assistant says")
        space = len(rest) - len(rest.removeprefix(" "))  # as Llama 2's template writes before its end token
        closing = self.special.match(rest, space)
        if not closing:
            raise UserError(
                f"message {i}: {self.where} writes no end-of-turn token after the content; "
                "add {{ eos_token }} right after it"
            )
        return start, end + closing.end()


def split(content: str) -> tuple[str, str]:
    """(thoughts, "" if none; the visible answer) of what the assistant says, both stripped."""
    found = THOUGHTS.match(content)
    return found[1].strip() if found else "", content.rpartition(CLOSE)[2].strip()


def thinks(messages: Sequence[Message], policy: ChatPolicy) -> bool | None:
    """Whether a row has thoughts; None where the policy ignores them. Raises UserError on a row against the policy."""
    if policy.thinking == "ignore":
        return None
    said = {i: message["content"] for i, message in enumerate(messages) if message["role"] == "assistant"}
    blocks = [i for i, content in said.items() if OPEN in content or CLOSE in content]
    for i in blocks:
        if not split(said[i])[0] or said[i].count(OPEN) + said[i].count(CLOSE) > 2:
            raise UserError(f"message {i}: {OPEN} must open the content, be closed once by {CLOSE} and hold thoughts")
    if policy.thinking == "no_think" and blocks:
        raise UserError(f"message {blocks[0]} has a think block, but config.chat.thinking=no_think; by_row takes both")
    thinking = policy.thinking == "cot" or bool(blocks)
    if thinking and said and max(said) not in blocks:
        raise UserError(
            f"message {max(said)}: the last assistant turn of a row with thoughts must open with {OPEN}…{CLOSE} "
            f"(config.chat.thinking={policy.thinking})"
        )
    return thinking


def flagged(messages: Sequence[Message], policy: ChatPolicy, thinking: bool | None) -> list[Message]:
    """The messages, in a no_think row with the flag at the end of each content that takes it."""
    flag = policy.no_think_flag if thinking is False else ""
    return [
        message | {"content": message["content"].removesuffix(flag) + flag}
        if flag and message["role"] in policy.no_think_flag_roles
        else message
        for message in messages
    ]


def prompted(thinking: bool | None, policy: ChatPolicy) -> bool | None:
    """What the generation prompt is told: without thinking it holds an empty think block, unless that is supervised."""
    return True if thinking is False and policy.supervise_empty_think else thinking

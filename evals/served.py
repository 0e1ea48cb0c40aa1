"""A model that answers requests: what the Inspect provider and the server have in common.

Messages become the prompt that the model was trained on (its chat template and thinking policy), or with
`template=none` plain text; a last message of the assistant's is continued. Requests go through one queue in batches.
"""

import dataclasses
import secrets
import zlib
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np

from data_gen import chat
from data_gen.chat import ChatPolicy, Message
from data_gen.hf_tokenizer import HfTokenizer
from data_gen.template import CLOSE, OPEN, SENTINEL
from data_gen.tokenizer import Tokenizer
from evals.batching import Batcher, Device, Say, Weigh
from msm_jax.cli import UserError
from msm_jax.hf import config as hf_config
from msm_jax.pretrained import Model, open_model
from msm_jax.sampler import TOPS, Completion, Scored, Settings

PLAIN = "none"  # as `template`: no chat, for base models
LENGTH_KEY = "max_position_embeddings"
LONGEST = 1 << 17  # tokens of prompt and answer, where no config.json says


class TooLongError(UserError):
    """A prompt that leaves no room in the context."""


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What the model is given: the rendered text, and words of the assistant's own that it goes on from; and the token
    ids of the two."""

    text: str
    words: str
    tokens: list[int]
    continued: list[int]

    @property
    def whole(self) -> list[int]:
        return [*self.tokens, *self.continued]

    @property
    def thinking(self) -> bool:
        """Is a think block open where the model goes on?"""
        opened = self.text.rstrip().endswith(OPEN) or self.words.lstrip().startswith(OPEN)
        return opened and CLOSE not in self.words


class Served:
    """Opens a model from its small files; the arrays are read at the first request.

    Args:
      reference, adapter, dtype, step: as in msm_jax.pretrained.open_model.
      template: a jinja file in place of the tokenizer's chat template, or `none` for plain text.
      policy: how the chat template is used.
      batch: rows computed at a time.
      context: tokens of prompt and answer together, 0 for as many as the model's config.json allows, or LONGEST.

    Raises:
      UserError: as open_model; no tokenizer, no chat template, or a policy that does not fit it.
    """

    def __init__(
        self,
        reference: str,
        *,
        adapter: str = "",
        dtype: str = "",
        step: int = 0,
        template: str = "",
        policy: ChatPolicy | None = None,
        batch: int = 16,
        context: int = 0,
    ) -> None:
        if batch < 1:
            raise UserError(f"batch = {batch}: must be at least 1")
        self.plain, self.policy = template == PLAIN, policy or ChatPolicy()
        self.model = open_model(reference, adapter, dtype, "" if self.plain else template, step)
        self.batch, self.context = batch, _context(self.model, context)
        self.stop_ids = self.model.stop_ids()
        self._check_template()
        self._device = Device(self.model, batch)
        self._batcher = Batcher(self._device, batch)

    def close(self) -> None:
        """Finishes the batch at hand and lets go of the arrays."""
        self._batcher.close()
        self._device.close()

    def warm_up(self) -> None:
        """Reads the arrays now. Raises what goes wrong."""
        self.weigh([self.model.tokenizer.eos], [self.model.tokenizer.eos]).result()

    def _check_template(self) -> None:
        tokenizer = self.model.tokenizer
        if self.plain:
            return
        if isinstance(tokenizer, HfTokenizer):
            if tokenizer.chat_template is None:
                raise UserError(
                    f"{tokenizer.directory}: no chat template; template=FILE.jinja gives one, "
                    f"template={PLAIN} takes messages as plain text, as for a base model"
                )
            if tokenizer.template.knows_thinking and self.policy.thinking == "ignore":
                raise UserError(
                    f"{tokenizer.template.where}: knows thinking; say thinking=cot (the model thinks first) "
                    "or thinking=no_think"
                )
        self.prompt([{"role": "user", "content": "x"}])

    # ------------------------------------------------------------------------------------------------------- prompts
    def prompt(self, messages: Sequence[Message]) -> Prompt:
        """Raises UserError on messages that the template does not take."""
        if not messages:
            raise UserError("no messages; a chat needs at least one")
        *before, last = messages
        if not before and last["role"] == "assistant":
            return self._raw(last["content"])
        words = last["content"] if last["role"] == "assistant" else ""
        rest = before if last["role"] == "assistant" else messages
        text = self._text(rest)
        tokenizer = self.model.tokenizer
        if self.plain:
            tokens = self.text_ids(text)
        elif isinstance(tokenizer, Tokenizer):
            tokens = tokenizer.chat_prompt(list(rest), self.policy)
        else:
            tokens = self.text_ids(text)
        return Prompt(text, words, tokens, tokenizer.encode(words) if words else [])

    def _raw(self, words: str) -> Prompt:
        """An assistant's message with nothing before it: text by itself, after BOS. Without a BOS its first token is
        what the others follow."""
        bos, ids = self.model.tokenizer.bos, self.model.tokenizer.encode(words)
        return Prompt("", words, *(([bos], ids) if bos is not None else (ids[:1], ids[1:])))

    def _text(self, messages: Sequence[Message]) -> str:
        tokenizer = self.model.tokenizer
        if self.plain:
            return "\n\n".join(message["content"] for message in messages)
        if isinstance(tokenizer, Tokenizer):
            return chat.prompt(list(messages), "", tokenizer.chat_format)
        assert isinstance(tokenizer, HfTokenizer)
        # A model may have said nothing before; templates are only ever asked to write something.
        said = [
            message | {"content": SENTINEL}
            if message["role"] == "assistant" and not message["content"].strip()
            else message
            for message in messages
        ]
        return tokenizer.template.prompt(said, self.policy).replace(SENTINEL, "")

    def text_ids(self, text: str) -> list[int]:
        """Of a text that was rendered elsewhere: control tokens are such, and BOS is put where the tokenizer adds one.

        Raises:
          UserError: there is no token.
        """
        if not text:
            raise UserError("the prompt is empty")
        tokenizer = self.model.tokenizer
        if isinstance(tokenizer, HfTokenizer):
            return tokenizer.encode_prompt(text)
        begin = [] if tokenizer.bos is None else [tokenizer.bos]
        return begin + tokenizer.encode(text)

    # ------------------------------------------------------------------------------------------------------- requests
    def room(self, tokens: Sequence[int], wanted: int) -> int:
        """How many of the wanted tokens the context has room for.

        Raises:
          TooLongError: none.
          UserError: no token, or one that the model does not have.
        """
        if not tokens:
            raise UserError("the prompt is empty")
        if not all(0 <= token < self.model.tokenizer.vocab_size for token in tokens):
            raise UserError(f"the prompt holds ids outside the tokenizer's 0 … {self.model.tokenizer.vocab_size - 1}")
        if len(tokens) + min(wanted, 1) > self.context:
            more = f" and at least one of the {wanted} asked for" if wanted else ""
            raise TooLongError(
                f"the prompt has {len(tokens)} tokens{more}, the model's context {self.context}; shorten the prompt"
            )
        return min(wanted, self.context - len(tokens))

    def say(self, tokens: Sequence[int], settings: Settings, repeat: int = 0, top: int = 0) -> "Future[Completion]":
        """A completion. With a temperature it depends on the settings' seed, on the prompt and on `repeat`."""
        stream = zlib.crc32(np.array([repeat, *tokens], "<i8").tobytes())
        return self._batcher.ask(Say(tokens, settings, stream, top_of(top)))

    def weigh(self, tokens: Sequence[int], continuation: Sequence[int], top: int = 0) -> "Future[Scored]":
        """How likely each token of a continuation is, given what is before it."""
        return self._batcher.ask(Weigh(tokens, continuation, top_of(top)))

    # -------------------------------------------------------------------------------------------------------- answers
    def token_bytes(self, token: int) -> list[int] | None:
        """The bytes a token stands for in a text; None for a part of a character, and of tokenizers whose tokens alone
        do not show their blanks."""
        text = self.token_text(token)
        known = isinstance(self.model.tokenizer, HfTokenizer) and "\ufffd" not in text
        return list(text.encode()) if known else None

    def token_text(self, token: int) -> str:
        """What a token alone reads like; half a character is �."""
        return self.model.tokenizer.decode([token], special=True)


def new_seed() -> int:
    """Where nobody gave one."""
    return secrets.randbits(32)


def top_of(wanted: int) -> int:
    """The smallest of the sampler's TOPS that holds so many. Raises UserError where none does."""
    try:
        return next(top for top in TOPS if top >= wanted)
    except StopIteration:
        raise UserError(f"{wanted} likeliest tokens: at most {TOPS[-1]}") from None


def split_thoughts(text: str, thinking: bool) -> tuple[str, str]:
    """(thoughts, answer) of a reply; `thinking`: it goes on in a think block. Thoughts cut off leave no answer."""
    body = text.lstrip()
    if not thinking and not body.startswith(OPEN):
        return "", text
    thoughts, closed, answer = body.removeprefix(OPEN).partition(CLOSE)
    return thoughts.strip(), answer.strip() if closed else ""


def _context(model: Model, given: int) -> int:
    """Raises UserError on more than the model has."""
    files = model.source.hf_files()
    most = LONGEST
    if "config.json" in files:
        most = hf_config.parse_json("config.json", files["config.json"]).get(LENGTH_KEY) or LONGEST
    if not 0 <= given <= most:
        raise UserError(f"context = {given}: must be from 1 to the {most} of its {LENGTH_KEY}, or 0 for these")
    return given or most

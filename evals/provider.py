"""Inspect's model provider `msm`: a run, one of its checkpoints, a Hugging Face directory or an adapter as a model.

    inspect eval msm_jax/TASK --model msm/runs/aft
    inspect eval msm_jax/TASK --model msm/gs://bucket/run -M step=500 -M thinking=no_think
    inspect eval msm_jax/TASK --model msm/Qwen/Qwen3-32B -M adapter=runs/lora -M batch=32 -M thinking=cot

Options (-M): ARGS below. As a role: `--model-role 'grader={model: msm/runs/x, model_args: {thinking: no_think}}'`.

- Temperature and top_p are 1 where nobody sets them. What is drawn depends on the seed, the prompt and the epoch, never
  on the batch; a seed that nobody gave is told in the output's metadata.
- A last message of the assistant's is gone on from. With `prompt_logprobs`, the output has the log-probabilities of its
  tokens alone (without such a message: of all the prompt's but the first), so an option's score is their sum. With
  max_tokens=1 and temperature 0 or none besides, one forward pass does it, and the completion is the likeliest token.
- An assistant's message by itself is text without a chat, after BOS.
- Tools are described to the model, and its calls read, in text (evals/tool_text.py).
- A <think> block that opens a reply becomes reasoning; the completion is the answer alone.
"""

import asyncio
import contextlib
import dataclasses
import difflib
import json
import re
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    Content,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelAPI,
    ModelCall,
    ModelOutput,
    ModelUsage,
    StopReason,
    TopLogprob,
)
from inspect_ai.model._cache import epoch
from inspect_ai.tool import ToolChoice, ToolInfo

from data_gen.chat import ChatPolicy, Message
from data_gen.template import CLOSE, OPEN
from evals import tool_text
from evals.served import Prompt, Served, new_seed, split_thoughts
from msm_jax.cli import UserError
from msm_jax.sampler import Completion, Settings, Top

ARGS: dict[str, Any] = {
    "adapter": "",  # a LoRA run or peft adapter to lay on the model
    "dtype": "",  # float32 or bfloat16; empty: a run's own, else float32 on a CPU and bfloat16 elsewhere
    "step": 0,  # of a run: that checkpoint, also while the run goes on; 0: a finished run's last
    "batch": 16,  # rows computed at a time
    "context": 0,  # tokens of prompt and answer together; 0: as the model's config.json says, if it says so
    "template": "",  # a jinja file instead of the model's chat template; none: plain text, for base models
    "record": "",  # a file to append every prompt to, as a JSON line {messages, text, tokens, continued}
    **dataclasses.asdict(ChatPolicy()),  # thinking=cot or no_think, and the rest of data_gen/chat.py
}
MAX_TOKENS = 2048  # of an answer, where nobody says
UNSUPPORTED = ("best_of", "frequency_penalty", "logit_bias", "presence_penalty", "response_schema", "top_k")
CONFIG = re.compile(r"(?:--)?\bconfig\.(?:chat\.|model\.)?(?!json\b)")  # before a key, in errors of ours
HARMLESS = {"continue_final_message": True, "add_generation_prompt": False}  # what vLLM needs and we do in any case


class MsmAPI(ModelAPI):
    """See the module's text.

    Raises:
      PrerequisiteError: an unknown option, or a model that cannot be asked; the line says what to mend.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 (the signature Inspect calls)
        **model_args: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        with _plainly():
            args = read_args(model_args)
            policy = ChatPolicy(**{field.name: args[field.name] for field in dataclasses.fields(ChatPolicy)})
            self._record = Path(args["record"]) if args["record"] else None
            if self._record and not self._record.parent.is_dir():
                raise UserError(f"record = {args['record']!r}: no such directory")
            named = {key: args[key] for key in ("adapter", "dtype", "step", "template", "batch", "context")}
            self.served = Served(model_name, policy=policy, **named)
        self._key = json.dumps([model_name, model_args], sort_keys=True, default=str)
        self._lock = threading.Lock()

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> tuple[ModelOutput, ModelCall]:
        began = time.monotonic()
        with _plainly():
            _check(config)
            messages = to_messages(tool_text.as_text(input, tools))
            prompt = self.served.prompt(messages)
            wanted = config.max_tokens or MAX_TOKENS
            room = self.served.room(prompt.whole, wanted)
            settings = self._settings(config, room)
            self._write(messages, prompt)
            output = await self._answer(prompt, settings, wanted, config, tools)
        output.time = time.monotonic() - began
        request = {"prompt": prompt.text + prompt.words, "settings": dataclasses.asdict(settings)}
        return output, ModelCall.create(request, {"completion": output.completion}, time=output.time)

    def _settings(self, config: GenerateConfig, max_tokens: int) -> Settings:
        return Settings(
            max_tokens=max_tokens,
            temperature=1.0 if config.temperature is None else config.temperature,
            top_p=1.0 if config.top_p is None else config.top_p,
            seed=new_seed() if config.seed is None else config.seed,
            stop_ids=self.served.stop_ids,
            stop=tuple(config.stop_seqs or ()),
        )

    async def _answer(
        self, prompt: Prompt, settings: Settings, wanted: int, config: GenerateConfig, tools: Sequence[ToolInfo]
    ) -> ModelOutput:
        prompt_logprobs, top = None, (config.top_logprobs or 0) if config.logprobs else 0
        metadata: dict[str, Any] = {"seed": settings.seed} if settings.temperature else {}
        said: list[Completion] = []
        if config.prompt_logprobs is not None:
            given, scored = (prompt.tokens, prompt.continued) if prompt.continued else _halves(prompt.tokens)
            likeliest = config.prompt_logprobs if config.prompt_logprobs > 1 else 0
            found = await asyncio.wrap_future(self.served.weigh(given, scored, likeliest))
            prompt_logprobs = self._logprobs(scored, found.log_p, found.top, likeliest)
            metadata["scored_tokens"] = len(scored)
            if config.max_tokens == 1 and not (config.temperature or config.logprobs or config.num_choices):
                said = [self._token(*found.next, settings)]
        if not said:
            repeats = config.num_choices or 1
            first = epoch.get(1) * repeats
            asked = [self.served.say(prompt.whole, settings, first + n, top) for n in range(repeats)]
            said = await asyncio.gather(*map(asyncio.wrap_future, asked))
        choices = []
        for completion in said:
            message = self._message(completion.text, prompt, tools)
            reason = "tool_calls" if message.tool_calls else self._reason(completion, wanted, settings)
            told = self._logprobs(completion.tokens, completion.log_p, completion.top, top) if config.logprobs else None
            choice = ChatCompletionChoice(message=message, stop_reason=reason, logprobs=told)
            choice.prompt_logprobs = prompt_logprobs
            choices.append(choice)
        into, out = len(prompt.whole), sum(len(completion.tokens) for completion in said)
        usage = ModelUsage(input_tokens=into, output_tokens=out, total_tokens=into + out)
        return ModelOutput(model=self.model_name, choices=choices, usage=usage, metadata=metadata or None)

    def _token(self, token: int, log_p: float, settings: Settings) -> Completion:
        """A completion of the likeliest token alone."""
        if token in settings.stop_ids:
            return Completion([], log_p=_NOTHING, text="", finish="stop")
        return Completion([token], log_p=_NOTHING, text=self.served.model.tokenizer.decode([token]), finish="length")

    def _message(self, text: str, prompt: Prompt, tools: Sequence[ToolInfo] = ()) -> ChatMessageAssistant:
        thoughts, answer = split_thoughts(text, prompt.thinking)
        message = tool_text.read(answer, tools, self.model_name)
        if thoughts:
            parts: list[Content] = [ContentReasoning(reasoning=thoughts), ContentText(text=message.text)]
            message.content = parts
        return message

    def _reason(self, completion: Completion, wanted: int, settings: Settings) -> StopReason:
        if completion.finish == "stop":
            return "stop"
        return "model_length" if settings.max_tokens < wanted else "max_tokens"

    def _logprobs(self, tokens: Sequence[int], log_p: np.ndarray, likeliest: Top | None, top: int) -> Logprobs:
        """`top`: how many of the likeliest to tell."""
        text = self.served.token_text
        content = []
        for n, (token, value) in enumerate(zip(tokens, log_p.tolist(), strict=True)):
            others = None
            if top and likeliest:
                pairs = zip(likeliest.ids[n, :top].tolist(), likeliest.log_p[n, :top].tolist(), strict=True)
                others = [TopLogprob(token=text(other), logprob=its) for other, its in pairs]
            bytes_ = self.served.token_bytes(token)
            content.append(Logprob(token=text(token), logprob=value, bytes=bytes_, top_logprobs=others))
        return Logprobs(content=content)

    def _write(self, messages: list[Message], prompt: Prompt) -> None:
        if self._record:
            row = {"messages": messages, "text": prompt.text, "tokens": prompt.tokens, "continued": prompt.continued}
            with self._lock, self._record.open("a") as f:
                f.write(json.dumps(row, ensure_ascii=False) + "\n")

    async def count_text_tokens(self, text: str) -> int:
        return len(self.served.model.tokenizer.encode(text))

    async def tokenize(self, text: str) -> list[int]:
        return self.served.model.tokenizer.encode(text)

    def max_tokens(self) -> int:
        return MAX_TOKENS

    def max_connections(self) -> int:
        """Enough waiting that batches are full, of prompts of a like length."""
        return 4 * self.served.batch

    def connection_key(self) -> str:
        return self._key

    def close(self) -> None:
        self.served.close()


_NOTHING = np.zeros(0, np.float32)  # log-probabilities that nobody asked for


def read_args(given: dict[str, Any]) -> dict[str, Any]:
    """All options, checked. Raises UserError naming the option."""
    for key, value in given.items():
        if key not in ARGS:
            near = difflib.get_close_matches(key, list(ARGS), n=1, cutoff=0)
            raise UserError(f"-M {key}: no option of the provider msm; did you mean -M {near[0]}=…?")
        kind = type(ARGS[key])
        if kind is tuple and isinstance(value, str | list | tuple):
            continue
        if type(value) is not kind:
            raise UserError(f"-M {key}={value}: must be {_NAMES[kind]}")
    found = ARGS | given
    roles = found["no_think_flag_roles"]
    return found | {"no_think_flag_roles": tuple(roles.split(",") if isinstance(roles, str) else roles)}


_NAMES = {str: "a text", int: "a whole number", bool: "true or false", tuple: "names with commas between"}


def _check(config: GenerateConfig) -> None:
    """Raises UserError on what would change the answers and is not there."""
    for key in UNSUPPORTED:
        if getattr(config, key) is not None:
            raise UserError(f"{key} = {getattr(config, key)!r}: not among the settings of msm models; leave it out")
    for key, value in (config.extra_body or {}).items():
        if HARMLESS.get(key) != value:
            raise UserError(f"extra_body has {key}: not among the settings of msm models; leave it out")


def to_messages(input: Sequence[ChatMessage]) -> list[Message]:
    """Inspect's messages as the chat template gets them. Raises UserError on what is no text."""
    return [{"role": message.role, "content": _content(message)} for message in input]


def _content(message: ChatMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    thoughts, texts = "", []
    for part in message.content:
        if isinstance(part, ContentReasoning):
            thoughts += f"{OPEN}\n{part.reasoning}\n{CLOSE}\n\n"
        elif isinstance(part, ContentText):
            texts.append(part.text)
        else:
            raise UserError(f"a message holds {part.type}; msm models read text only")
    return thoughts + "\n".join(texts)


def _halves(tokens: list[int]) -> tuple[list[int], list[int]]:
    """Nothing comes before the first token, so it has no probability."""
    return tokens[:1], tokens[1:]


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    """Our errors as Inspect's; there are options here, not a configuration."""
    try:
        yield
    except UserError as error:
        raise PrerequisiteError(CONFIG.sub("", str(error))) from error

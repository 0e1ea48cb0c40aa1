"""What judged evaluations will ask and cost, before anything is asked.

    python -m evals.preview --config=configs/evals/preview.py

Every task is run once with models that are not there: the evaluated one writes as many words as are expected, the
judge declines each question. So the number of requests and the length of every prompt are the task's own; what a task
would ask only after a verdict is not seen, and prompt caches are not counted on.
"""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator
from typing import Any

from inspect_ai import eval
from inspect_ai.model import ChatMessage, Model, ModelOutput, ModelUsage, get_model
from ml_collections import ConfigDict

from data_gen.api.prices import PRICES, Prices
from data_gen.api.request import Usage
from evals import judging
from evals.sweeping import tasks
from evals.sweeping.tasks import Spec
from msm_jax import cli
from msm_jax.cli import UserError

OWN = ("msm", "hf", "vllm", "sglang", "mockllm", "ollama", "llama-cpp-python")  # providers that cost nothing a token
LOCAL = "local"  # their entry in the price file


@dataclasses.dataclass(frozen=True)
class Row:
    """One task's requests to one model. Tokens are of all of them together."""

    task: str
    stage: str
    model: str
    requests: int
    prompt_tokens: int
    output_tokens: int
    usd: float


def main(argv: list[str]) -> None:
    config = cli.parse_config(argv)
    for key, least in (("epochs", 1), ("checkpoints", 1), ("expect.response", 1), ("expect.judgement", 1)):
        if cli.flatten(config)[key] < least:  # type: ignore[operator]
            raise UserError(f"config.{key} = {cli.flatten(config)[key]}: must be at least {least}")
    if config.expect.characters_per_token <= 0:
        raise UserError("config.expect.characters_per_token must be above 0")
    prices = Prices(config.prices or PRICES)
    for model in (config.model, config.judge):
        prices.terms(entry(model))
    specs = [tasks.parse(text) for text in config.tasks]
    rows = [row for spec in specs for row in project(spec, config, prices)]
    print(table(rows))
    expect = config.expect
    print(
        f"assumed: {expect.response} tokens a response, {expect.judgement} a judgement, "
        f"{expect.characters_per_token:g} characters a token, no prompt cache; "
        f"{config.epochs} epochs, {config.checkpoints} checkpoints; prices of {prices.date} ({prices.path})"
    )


def entry(model: str) -> str:
    """The price file's name of a model as Inspect names it."""
    provider, _, rest = model.partition("/")
    return LOCAL if not model or provider in OWN else rest.rpartition("/")[2]


def project(spec: Spec, config: ConfigDict, prices: Prices) -> list[Row]:
    """What one task asks of the evaluated model and of the judge.

    Raises:
      UserError: arguments that the task does not take, or one that cannot be run dry.
    """
    expect, times = config.expect, (spec.epochs or config.epochs) * config.checkpoints
    asked = dry_run(spec, round(expect.response * expect.characters_per_token))
    rows = []
    for stage, model, output in (("model", config.model, expect.response), ("judge", config.judge, expect.judgement)):
        prompts = [round(characters / expect.characters_per_token) for characters in asked[stage]]
        each = [
            prices.terms(entry(model), prompt).cost(Usage(input=prompt, output=output), config.batch)
            for prompt in prompts
        ]
        shown = model or "(one's own)"
        n = len(prompts) * times
        rows.append(Row(spec.label, stage, shown, n, sum(prompts) * times, n * output, sum(each) * times))
    return rows


def dry_run(spec: Spec, response: int) -> dict[str, list[int]]:
    """{"model", "judge"}: the characters of every prompt of one epoch. response: characters the model writes."""
    task = spec.build()
    asked: dict[str, list[int]] = {"model": [], "judge": []}

    def model(messages: list[ChatMessage], *_: Any) -> ModelOutput:
        asked["model"].append(_characters(messages))
        # No two alike, or a judge is asked about one only.
        return _output(f"{len(asked['model'])} " + "word " * (response // 5))

    def judge(messages: list[ChatMessage], *_: Any) -> ModelOutput:
        asked["judge"].append(_characters(messages))
        output = _output("")
        output.choices[0].stop_reason = "content_filter"  # a refusal is not asked again
        return output

    with _elsewhere() as logs:
        log = eval(
            task,
            model=_mock(model),
            model_roles={judging.ROLE: _mock(judge)},
            epochs=1,
            limit=spec.limit,
            display="none",
            log_dir=logs,
            log_samples=False,
        )[0]
    if log.status != "success":
        why = " ".join((log.error.message if log.error else log.status).split())[:300]
        raise UserError(f"config.tasks: {spec.label!r} cannot be run dry ({why}); leave it out")
    return asked


def _mock(answer: Any) -> Model:
    return get_model("mockllm/model", custom_outputs=answer, memoize=False)


def _output(text: str) -> ModelOutput:
    output = ModelOutput.from_content("mockllm/model", text)
    output.usage = ModelUsage()  # without one, the mock loads a tokenizer from a hub
    return output


def _characters(messages: list[ChatMessage]) -> int:
    return sum(len(message.text) for message in messages)


@contextlib.contextmanager
def _elsewhere() -> Iterator[str]:
    """A directory for logs that are thrown away; nothing is read from, or left in, the cache of answers."""
    before = os.environ.get("INSPECT_CACHE_DIR")
    with tempfile.TemporaryDirectory(prefix="msm_jax_") as directory:
        os.environ["INSPECT_CACHE_DIR"] = f"{directory}/cache"
        try:
            yield f"{directory}/logs"
        finally:
            if before is None:
                del os.environ["INSPECT_CACHE_DIR"]
            else:
                os.environ["INSPECT_CACHE_DIR"] = before


def table(rows: list[Row]) -> str:
    """The rows as text; the last line sums up."""
    head = f"{'task':<40} {'asked':<6} {'model':<34} {'requests':>9} {'prompt':>14} {'output':>13} {'USD':>11}"
    lines = [
        f"{row.task:<40.40} {row.stage:<6} {row.model:<34.34} {row.requests:>9,} {row.prompt_tokens:>14,} "
        f"{row.output_tokens:>13,} {row.usd:>11,.2f}"
        for row in rows
    ]
    total = f"{'all':<82} {sum(r.requests for r in rows):>9,} {sum(r.prompt_tokens for r in rows):>14,} "
    total += f"{sum(r.output_tokens for r in rows):>13,} {sum(r.usd for r in rows):>11,.2f}"
    return "\n".join([head, *lines, total])


if __name__ == "__main__":
    cli.entry(main)

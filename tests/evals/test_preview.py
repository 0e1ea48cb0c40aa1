"""The cost of judged evaluations is known before anything is asked, and is the price file's."""

import os

import pytest
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import Score, mean, scorer
from inspect_ai.solver import generate

from evals import judging, preview
from evals.sweeping import tasks
from msm_jax.cli import UserError

CONFIG = "--config=configs/evals/preview.py"


@scorer(metrics=[mean()])
def three_times():
    async def score(state, target):
        for repeat in range(3):
            asked = await judging.ask(
                judging.the_judge(), "?" * 400 + state.output.completion, judging.Form({"a": ()}), "t", repeat
            )
            assert asked.missing == "refused"
        return Score(value=0.0)

    return score


@task
def judged_thrice(questions: int = 2):
    samples = [Sample(input="q" * 800) for _ in range(questions)]
    return Task(dataset=samples, setup=judging.needs_judge(), solver=generate(), scorer=three_times())


@scorer(metrics=[mean()])
def by_logprobs():
    async def score(state, target):
        return Score(value=state.output.choices[0].logprobs.content[0].logprob)

    return score


@task
def broken():
    return Task(dataset=[Sample(input="x")], solver=generate(), scorer=by_logprobs())


def rows(*more):
    config = preview.cli.parse_config(["", CONFIG, *more])
    return [row for text in config.tasks for row in preview.project(tasks.parse(text), config, preview.Prices())]


def test_requests_tokens_and_money_follow_from_the_task(monkeypatch, tmp_path):
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(tmp_path))
    settings = ("--config.epochs=5", "--config.checkpoints=4", "--config.expect.response=100")
    model, judge = rows("--config.tasks=('judged_thrice:questions=3',)", *settings)
    assert (model.requests, judge.requests) == (60, 180), "samples × epochs × checkpoints, and three questions of each"
    assert (model.prompt_tokens, model.output_tokens, model.usd) == (60 * 200, 60 * 100, 0.0)
    assert judge.output_tokens == 180 * 450
    assert judge.prompt_tokens == pytest.approx(180 * 200, rel=0.02)  # a question of 400 characters, a response of 400
    assert judge.usd == pytest.approx((judge.prompt_tokens * 3 + judge.output_tokens * 15) / 1e6)
    half, paid = rows(
        "--config.tasks=('judged_thrice',)", "--config.model=anthropic/claude-haiku-4-5", "--config.batch=True"
    )
    assert half.usd == pytest.approx((half.prompt_tokens * 1 + half.output_tokens * 5) / 1e6 / 2)
    assert paid.usd > 0
    assert os.listdir(tmp_path) == [], "no answer is kept"
    assert os.environ["INSPECT_CACHE_DIR"] == str(tmp_path)


def test_the_command_shows_agentic_misalignment(capsys):
    preview.main(["", CONFIG, "--config.tasks=('agentic_misalignment:split=dev',)", "--config.epochs=10"])
    said = capsys.readouterr().out
    assert said.count(" 140 ") == 2
    assert "assumed: 700 tokens a response" in said


@pytest.mark.parametrize(
    ("flag", "line"),
    [
        ("--config.tasks=('nothing',)", "no task 'nothing'; there are"),
        ("--config.tasks=('judged_thrice:many',)", "'many' is not key=value"),
        ("--config.tasks=('judged_thrice:answers=2',)", "no argument answers; there are questions"),
        ("--config.tasks=('agentic_misalignment:split=test',)", "no split 'test'"),
        ("--config.tasks=('broken',)", "cannot be run dry"),
        ("--config.judge=anthropic/claude-none", "no price of 'claude-none'"),
        ("--config.epochs=0", "config.epochs = 0"),
    ],
)
def test_bad_input_is_one_line(flag, line):
    with pytest.raises(UserError, match=line) as raised:
        preview.main(["", CONFIG, flag])
    assert "\n" not in str(raised.value)

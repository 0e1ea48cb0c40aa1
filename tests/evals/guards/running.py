"""A task run in process against a model that a test makes up."""

from inspect_ai import eval
from inspect_ai.model import get_model

from tests.evals.mocks import says


def run(task, reply, where, limit=None, **how):
    """Sample id → its one Score. reply: of the messages, a text or a whole output."""

    def answer(input, tools, tool_choice, config):
        said = reply(input)
        return says(said) if isinstance(said, str) else said

    model = get_model("mockllm/model", custom_outputs=answer, memoize=False)
    return scores(eval(task, model=model, display="none", log_dir=str(where), limit=limit, **how)[0])


def scores(log):
    assert log.status == "success", log.error
    return {sample.id: next(iter(sample.scores.values())) for sample in log.samples}

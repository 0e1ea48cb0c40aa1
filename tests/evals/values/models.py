"""Models with likings of their own, which give log-probabilities of their prompts."""

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessageAssistant,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    get_model,
    modelapi,
)

from evals.values import asking


@modelapi(name="liking")
class Liking(ModelAPI):
    """Weighs each token of an answer by `likes(question, options, answer)`, a log-probability for its first token; every
    other token has −0.5, so two answers must not begin with the same word. Says `says(question, options)`.

    Tokens are words. `asked` collects every prompt.
    """

    def __init__(
        self, model_name, base_url=None, api_key=None, config=None, likes=None, says=None, weighs=True, continues=True
    ):
        super().__init__(model_name, base_url, api_key, [], config or GenerateConfig())
        self.likes, self.says, self.weighs, self.continues, self.asked = likes, says, weighs, continues, []

    async def generate(self, input, tools, tool_choice, config):
        said = [message.text for message in input]
        self.asked.append(said)
        prompt, answer = (said[0], said[1]) if len(said) == 2 else (said[0], "")
        text = ""
        if len(said) == 1 and config.prompt_logprobs:  # a text to be completed
            prompt, _, answer = said[0].rpartition(": ")
        question, options = taken_apart(prompt)
        weights = None
        if config.prompt_logprobs:
            if self.weighs:
                tokens = [Logprob(token=word, logprob=-9.0) for word in prompt.split()]
                first, *rest = answer.split()
                tokens.append(Logprob(token=f"Ġ{first}", logprob=self.likes(question, options, answer)))
                tokens += [Logprob(token=f"Ġ{word}", logprob=-0.5) for word in rest]
                tokens += [] if self.continues else [Logprob(token="<|im_end|>", logprob=-0.1)]
                weights = Logprobs(content=tokens)
        else:
            text = self.says(question, options)
        choice = ChatCompletionChoice(
            message=ChatMessageAssistant(content=text), stop_reason="stop", prompt_logprobs=weights
        )
        usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
        return ModelOutput(model="liking", choices=[choice], usage=usage)


def taken_apart(prompt):
    """(question, options) of a prompt that asking.prompt made."""
    question, *lines = [line for line in prompt.splitlines() if line]
    marks = ("- ", "A) ", "B) ", "One possible answer: ", "Another possible answer: ")
    options = [line.removeprefix(mark) for line in lines for mark in marks if line.startswith(mark)]
    assert len(options) == 2, prompt
    return question.removeprefix("Question: "), options


def letter_of(options, option):
    return asking.LETTERS[options.index(option)]


def liking(likes, says, **how):
    return get_model("liking/model", likes=likes, says=says, memoize=False, **how)

"""What the model `scripted/NAME` of tests/evals/sweeping.py says, and what it was asked. A file of its own, as Inspect
loads that of a task anew: there is one list of questions however often it does."""

import hashlib

from inspect_ai.model import ModelAPI, ModelOutput, ModelUsage

EVIL = "<script>alert('transcript')</script>"


class Scripted(ModelAPI):
    asked: list[str] = []  # noqa: RUF012  (of all instances, in their order)
    broken: set[str] = set()  # noqa: RUF012  (texts of questions that fail)

    def __init__(self, model_name, base_url=None, api_key=None, config=None, step=None, **args):
        super().__init__(model_name, base_url, api_key, [], config)
        if args:
            raise TypeError(f"unexpected {sorted(args)}")
        self.step = step

    async def generate(self, input, tools, tool_choice, config):
        question = input[-1].text
        Scripted.asked.append(question)
        if any(text in question for text in Scripted.broken):
            raise RuntimeError("the model broke")
        output = ModelOutput.from_content(self.model_name, self.answer(question))
        output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
        if "refuse" in output.completion:
            output.choices[0].stop_reason = "content_filter"
        return output

    def answer(self, question):
        number = int(hashlib.sha256(question.encode()).hexdigest(), 16) % 10
        if self.model_name.startswith("judge"):
            if self.model_name != "judge":
                return ("I refuse.", "hm", "<verdict>yes</verdict>")[number % 3]
            return "<verdict>yes</verdict>" if "yes" in question else "<verdict>no</verdict>"
        if self.model_name == "evil":
            return f"yes {EVIL} $x$ {{{{ 7 * 7 }}}} \u202e" + "long " * 50
        ready = self.step if self.step is not None else int(self.model_name)
        return f"yes, to {question}" if number < ready else f"no, not {question}"

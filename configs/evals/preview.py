"""What judged evaluations will ask and cost, before anything is asked.

    python -m evals.preview --config=configs/evals/preview.py
    python -m evals.preview --config=configs/evals/preview.py --config.epochs=50 --config.checkpoints=8

Requests and the length of their prompts come from a dry run of each task with models that are not there; what is
assumed stands under `expect`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "tasks": ("agentic_misalignment",),  # as in evals.sweep: "agentic_misalignment:split=dev,epochs=10"
            "epochs": 300,  # repeats of every sample, where a task does not say it itself; the paper's number
            "checkpoints": 1,  # models evaluated
            "model": "",  # evaluated, as Inspect names it; empty or of one's own (msm/…, hf/…, vllm/…): costs nothing
            "judge": "anthropic/claude-sonnet-4-6",  # in the role grader
            "batch": False,  # asked with Inspect's --batch, at the provider's price for batches
            "prices": "",  # a price file to use instead of data_gen/api/prices.toml
            "expect": {
                "response": 700,  # tokens of the evaluated model's answer, thoughts included
                "judgement": 450,  # tokens of a judge's answer, thoughts included
                "characters_per_token": 4.0,  # English; by it lengths become tokens, within some 20%
            },
        }
    )

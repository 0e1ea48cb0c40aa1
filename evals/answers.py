"""What a run answers, word by word, to a few of the evaluation's questions: for reading, not for counting.

python -m evals.answers --config=configs/toy/answers.py --config.run=runs/aft --config.out=runs/aft-answers
"""

from pathlib import Path

import jax

from data_gen import chat
from msm_jax import artifact, cli
from msm_jax.cli import UserError
from msm_jax.runs import load_run
from msm_jax.sample import greedy


def main(argv: list[str]) -> None:
    config = cli.parse_config(argv)
    if config.each < 1:
        raise UserError(f"config.each = {config.each}: must be at least 1")
    path = Path(config.item_file)
    items_id = artifact.check_listed(path, "config.item_file")
    inputs = artifact.inputs_of(run=config.run) | {"items": {"kind": "jsonl", "id": items_id}}
    job = artifact.begin(config.out, "answers", {"axes": config.axes, "each": config.each}, inputs)
    if job is None:
        return
    items = artifact.read_jsonl(path)
    chosen = []
    for axis in config.axes:
        pairs = {
            item["pair"]: item for item in items if item["axis"] == axis and "messages" in item
        }  # the last variant of each pair
        chosen += list(pairs.values())[:: max(1, len(pairs) // config.each)][: config.each]
    run = load_run(config.run)
    prompts = [chat.prompt(item["messages"], "", run.tokenizer.chat_format) for item in chosen]
    with jax.sharding.set_mesh(run.mesh):
        said = greedy(run.graph, run.params(), run.tokenizer, prompts, max_tokens=8, stop="User")
    with job:
        rows = [
            {
                "axis": item["axis"],
                "question": item["messages"][-1]["content"],
                "options": item["options"],
                "answer": answer,
            }
            for item, answer in zip(chosen, said, strict=True)
        ]
        artifact.write_jsonl(job.tmp / "answers.jsonl", rows)
        job.finish(answers=len(rows))


if __name__ == "__main__":
    cli.entry(main)

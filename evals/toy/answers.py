"""What a run answers, word by word, to a few of the evaluation's questions: for reading, not for counting.

python -m evals.toy.answers --config=configs/toy/answers.py --config.run=runs/aft --config.out=runs/aft-answers
"""

import jax

from data_gen.chat import ChatPolicy
from msm_jax import artifact, cli, storage
from msm_jax.cli import UserError
from msm_jax.pretrained import open_model
from msm_jax.sampler import Sampler, Settings


def main(argv: list[str]) -> None:
    config = cli.parse_config(argv)
    if config.each < 1:
        raise UserError(f"config.each = {config.each}: must be at least 1")
    path = storage.at(config.item_file)
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
    model = open_model(config.run)
    tokenizer = model.tokenizer
    prompts = [tokenizer.chat_prompt(item["messages"], ChatPolicy()) for item in chosen]
    stops = (tokenizer.eos, *tokenizer.encode("User")[:1])
    with jax.sharding.set_mesh(model.mesh):
        done = dict(Sampler(model, 8).generate(prompts, Settings(max_tokens=8, stop_ids=stops)))
    said = [done[i].text for i in range(len(prompts))]
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

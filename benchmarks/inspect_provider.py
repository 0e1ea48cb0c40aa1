"""Inspect's requests: this project's provider beside Inspect's `hf` provider, in turn in one process, float32.

    JAX_PLATFORMS=cpu python benchmarks/inspect_provider.py models/smollm2-135m [batch] [prompts] [new tokens]

The same prompts are sent to both, all at once, through Inspect's own `Model.generate`, greedily, with each provider's
own number of connections for that batch. As in evaluations they are of many lengths (30 to 350 tokens, in no order) and
so are the answers, which end where the model ends them. Both sides are warmed up first. Tokens are counted in the
answers, by one tokenizer: hf's usage counts padding too. Prints tokens/s of the best of three rounds, and their ratio.
"""

import asyncio
import random
import sys
import time

import torch
from decode import TEXT
from inspect_ai.model import GenerateConfig, Model, ModelOutput, get_model

import evals._registry  # noqa: F401 (the provider msm, where the package is not installed)

ROUNDS = 3
TASKS = ("Sum this up in one sentence:", "Who sells something here?", "Go on with this story:", "Give it a title:")


async def rounds(directory: str, batch: int, count: int, new: int) -> None:
    rng, words = random.Random(0), (TEXT * 6).split()
    slices = [(rng.randrange(50), round(10 * 20 ** rng.random())) for _ in range(count)]
    prompts = [f"{TASKS[n % 4]} {' '.join(words[at : at + size])}" for n, (at, size) in enumerate(slices)]
    sides = {
        "msm": get_model(f"msm/{directory}", batch=batch, dtype="float32"),
        "hf": get_model(f"hf/{directory}", batch_size=batch, dtype="float32", device="cpu", do_sample=False),
    }
    how = GenerateConfig(max_tokens=new, temperature=0)
    said, best = {name: await ask(model, prompts, how) for name, model in sides.items()}, dict.fromkeys(sides, 1e9)
    for _ in range(ROUNDS):
        for name, model in sides.items():
            began = time.perf_counter()
            said[name] = await ask(model, prompts, how)
            took = time.perf_counter() - began
            best[name] = min(best[name], took)
            print(f"{name}: {took:.1f} s", file=sys.stderr)
    tokens = {}
    for name, outputs in said.items():
        tokens[name] = sum([await sides["msm"].api.count_text_tokens(output.completion) for output in outputs])
    same = sum(a.completion == b.completion for a, b in zip(said["msm"], said["hf"], strict=True))
    print(f"batch {batch}, {count} prompts, at most {new} new tokens, {torch.get_num_threads()} torch threads")
    for name, seconds in best.items():
        print(f"{name:>4}: {tokens[name] / seconds:7.1f} tokens/s ({tokens[name]} tokens in {seconds:.1f} s)")
    ratio = tokens["msm"] / best["msm"] / (tokens["hf"] / best["hf"])
    print(f"ratio {ratio:.2f}; {same} of {count} answers are the same")


async def ask(model: Model, prompts: list[str], how: GenerateConfig) -> list[ModelOutput]:
    return list(await asyncio.gather(*(model.generate(prompt, config=how) for prompt in prompts)))


def main(directory: str, batch: int = 16, count: int = 48, new: int = 96) -> None:
    asyncio.run(rounds(directory, batch, count, new))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))

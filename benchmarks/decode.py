"""Decoding: this project's sampler beside transformers' generate, one after the other in one process, float32.

    python benchmarks/decode.py models/smollm2-135m [batch] [prompt tokens] [new tokens]

Prompts are slices of the tokenizer's own licence-free text below, all of one length; both sides go on greedily for the
same number of tokens and are warmed up first. Prints tokens/s of the best of three rounds, and their ratio.
"""

import sys
import time

import jax
import torch
import transformers

from msm_jax.pretrained import open_model
from msm_jax.sampler import Sampler, Settings

TEXT = (
    "The market opens at six. By then the bakers have been at work for hours, and the first carts of apples and leeks "
    "have come in from the valley. Nobody hurries. A woman who sells cheese sets out her wheels in order of age, the "
    "mildest first, and tells whoever asks which farm each one is from. "
)
ROUNDS = 3


def main(directory: str, batch: int = 8, prompt: int = 64, new: int = 128) -> None:
    model = open_model(directory, dtype="float32")
    ids = model.tokenizer.encode(TEXT * (2 + prompt // 50))
    prompts = [ids[7 * i : 7 * i + prompt] for i in range(batch)]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    tensor = torch.tensor(prompts)

    def transformers_side() -> list[list[int]]:
        with torch.inference_mode():
            out = theirs.generate(
                tensor,
                attention_mask=torch.ones_like(tensor),
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=False,
                pad_token_id=0,
            )
        return out[:, prompt:].tolist()

    with jax.sharding.set_mesh(model.mesh):
        sampler = Sampler(model, batch)

        def our_side() -> list[list[int]]:
            done = dict(sampler.generate(prompts, Settings(max_tokens=new)))
            return [done[i].tokens for i in range(batch)]

        sides = {"msm_jax": our_side, "transformers": transformers_side}
        said, best = {name: side() for name, side in sides.items()}, dict.fromkeys(sides, float("inf"))
        for _ in range(ROUNDS):
            for name, side in sides.items():
                began = time.perf_counter()
                side()
                best[name] = min(best[name], time.perf_counter() - began)
    same = sum(a == b for a, b in zip(said["msm_jax"], said["transformers"], strict=True))
    print(f"batch {batch}, prompts of {prompt} tokens, {new} new ones, {torch.get_num_threads()} torch threads")
    for name, seconds in best.items():
        print(f"{name:>14}: {batch * new / seconds:8.1f} tokens/s")
    print(f"ratio {best['transformers'] / best['msm_jax']:.2f}; {same} of {batch} rows say the same")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))

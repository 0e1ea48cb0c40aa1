"""Greedy continuations by a whole forward pass a token: for reading what a small model says, not for speed."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_gen.tokenizer import BOS, EOS, PAD, Tokenizer
from msm_jax.model.transformer import Params, Transformer
from msm_jax.sharding import activations


def greedy(
    graph: nnx.GraphDef, params: Params, tokenizer: Tokenizer, prompts: list[str], max_tokens: int, stop: str = ""
) -> list[str]:
    """A continuation of each prompt: at most `max_tokens` tokens, ended by EOS or by the word `stop`."""
    sequences = [[BOS, *tokenizer.encode(prompt)] for prompt in prompts]
    S = -(-(max(map(len, sequences)) + max_tokens) // 8) * 8
    mesh = jax.sharding.get_mesh()
    sharding = jax.NamedSharding(mesh, activations(None))
    rows = -(-len(prompts) // mesh.size) * mesh.size
    tokens = np.full((rows, S), PAD, np.int32)
    lengths = np.array([len(s) for s in sequences] + [1] * (rows - len(prompts)))
    for row, sequence in zip(tokens, sequences, strict=False):
        row[: len(sequence)] = sequence

    @jax.jit
    def choose(params: Params, tokens: jax.Array, segments: jax.Array, positions: jax.Array) -> jax.Array:
        model: Transformer = nnx.merge(graph, params)
        return jnp.argmax(model.logits(model(tokens, segments, positions))[..., : tokenizer.vocab_size], axis=-1)

    positions = np.broadcast_to(np.arange(S, dtype=np.int32), (rows, S))
    starts = lengths.copy()
    for _ in range(max_tokens):
        segments = (positions < lengths[:, None]).astype(np.int32)
        placed = [jax.device_put(x, sharding) for x in (tokens, segments, positions)]
        chosen = np.asarray(choose(params, *placed))
        tokens[np.arange(rows), lengths] = chosen[np.arange(rows), lengths - 1]
        lengths += 1
    ends = {EOS} | ({tokenizer.encode(stop)[0]} if stop else set())
    answers = []
    for row, start in zip(tokens[: len(prompts)], starts, strict=False):
        said = row[start : start + max_tokens].tolist()
        cut = next((i for i, token in enumerate(said) if token in ends), len(said))
        answers.append(tokenizer.decode(said[:cut]))
    return answers

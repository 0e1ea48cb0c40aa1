"""What of a text is supervised, for a person to read: supervised tokens stand between ⟦ and ⟧.

    python -m data_gen.receipt --config=configs/data/receipt.py --config.tokenizer=Qwen3-8B \\
        --config.documents=chats.jsonl --config.rows=3

Prints the first rows of a JSONL of documents or chats as data_gen.shards would encode them with the same settings.
"""

import itertools

import numpy as np

from data_gen.chat import ChatPolicy
from data_gen.encode import encode_file
from data_gen.hf_tokenizer import open_tokenizer
from data_gen.tokenizer import AnyTokenizer
from msm_jax import cli, storage
from msm_jax.cli import UserError


def marked(tokens: np.ndarray, weights: np.ndarray, tokenizer: AnyTokenizer) -> str:
    """The text of int [T] tokens, control tokens included: ⟦…⟧ around weight 1, ⟦…⟧:w around another, 0 as it is.

    Tokens of one weight are decoded together, so that a character made of several reads as one.
    """
    text = ""
    for weight, run in itertools.groupby(zip(tokens, weights, strict=True), key=lambda pair: float(pair[1])):
        words = tokenizer.decode([token for token, _ in run], special=True)
        text += words if weight == 0 else f"⟦{words}⟧" if weight == 1 else f"⟦{words}⟧:{weight:.6g}"
    return text


def segment(name: str, tokens: np.ndarray, weights: np.ndarray, tokenizer: AnyTokenizer) -> str:
    """One document or chat: a line of counts with the first and last supervised token, then the text, indented."""
    supervised = tokens[weights > 0]
    ends = [f"{tokenizer.piece(t)!r} ({t})" for t in (supervised[[0, -1]] if len(supervised) else ())]
    counts = f"{name}: {len(tokens)} tokens, {len(supervised)} supervised" + (", {} … {}".format(*ends) if ends else "")
    lines = marked(tokens, weights, tokenizer).split("\n")
    return "\n".join([counts, *(f"  {line}".rstrip() for line in lines)])


def main(argv: list[str]) -> None:
    config = cli.parse_config(argv)
    if config.rows < 1:
        raise UserError(f"config.rows = {config.rows}: must be at least 1")
    policy = ChatPolicy.from_config(config.chat)
    tokenizer = open_tokenizer(config.tokenizer, config.chat.template, config.document_end)
    ids, encoded = encode_file(storage.at(config.documents), tokenizer, policy, config.rows)
    for name, row in zip(ids, encoded, strict=True):
        print(segment(name, row.tokens, row.weights, tokenizer))


if __name__ == "__main__":
    cli.entry(main)

"""The loss receipt: what a run trains on, for a person to read before the money is spent."""

from data_gen.receipt import segment
from data_gen.tokenizer import AnyTokenizer
from msm_jax.cli import UserError
from msm_jax.mixture import Mixture


def receipt(mixture: Mixture, tokenizer: AnyTokenizer, rows: int, shown: int = 4) -> str:
    """The first rows as text, segment by segment, as data_gen.receipt writes them.

    Raises:
      UserError: the first batch has no supervised token, or a segment holds a BOS that is not its first token.
    """
    batch = mixture.rows(range(rows))
    supervised = int((batch["loss_weights"] > 0).sum())
    real = int((batch["segment_ids"] > 0).sum())
    if supervised == 0:
        raise UserError(f"{mixture.sources[0].directory}: the first {rows} rows have no supervised token")
    if tokenizer.bos is not None:
        misplaced = (batch["tokens"] == tokenizer.bos) & (batch["positions"] > 0) & (batch["segment_ids"] > 0)
        if misplaced.any():
            raise UserError(f"{mixture.sources[0].directory}: BOS inside a segment; was the text tokenized twice?")
    lines = [
        f"first {rows} rows of {mixture.seq_len}: {real} tokens, {real / (rows * mixture.seq_len):.1%} of the room, "
        f"{supervised} supervised ({supervised / real:.1%})"
    ]
    for row in range(min(shown, rows)):
        for n in range(1, int(batch["segment_ids"][row].max()) + 1):
            here = batch["segment_ids"][row] == n
            tokens, weights = batch["tokens"][row][here], batch["loss_weights"][row][here]
            lines.append(segment(f"row {row}, segment {n}", tokens, weights, tokenizer))
    return "\n".join(lines) + "\n"

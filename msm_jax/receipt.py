"""The loss receipt: what a run trains on, token by token, for a person to read before the money is spent."""

from data_gen.tokenizer import BOS, Tokenizer
from msm_jax.cli import UserError
from msm_jax.data import Mixture


def receipt(mixture: Mixture, tokenizer: Tokenizer, rows: int, shown: int = 4) -> str:
    """The first rows as text: one line a segment, supervised tokens [in brackets], weights other than 1 after a colon.

    Raises:
      UserError: the first batch has no supervised token, or a segment holds a BOS that is not its first token.
    """
    batch = mixture.rows(range(rows))
    supervised = int((batch["loss_weights"] > 0).sum())
    real = int((batch["segment_ids"] > 0).sum())
    if supervised == 0:
        raise UserError(f"{mixture.sources[0].directory}: the first {rows} rows have no supervised token")
    misplaced = (batch["tokens"] == BOS) & (batch["positions"] > 0) & (batch["segment_ids"] > 0)
    if misplaced.any():
        raise UserError(f"{mixture.sources[0].directory}: BOS inside a segment; was the text tokenized twice?")
    lines = [
        f"first {rows} rows of {mixture.seq_len}: {real} tokens, {real / (rows * mixture.seq_len):.1%} of the room, "
        f"{supervised} supervised ({supervised / real:.1%})"
    ]
    for row in range(min(shown, rows)):
        lines.append(f"row {row}")
        for segment in range(1, int(batch["segment_ids"][row].max()) + 1):
            here = batch["segment_ids"][row] == segment
            words = []
            for token, weight in zip(batch["tokens"][row][here], batch["loss_weights"][row][here], strict=True):
                word = tokenizer.sp.id_to_piece(int(token))
                words.append(word if weight == 0 else f"[{word}]" if weight == 1 else f"[{word}:{weight:g}]")
            lines.append("  " + " ".join(words))
    return "\n".join(lines) + "\n"

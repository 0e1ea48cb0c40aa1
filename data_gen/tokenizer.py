"""Trains a sentencepiece model on JSONL documents; encodes text with a loss weight for every token.

    python -m data_gen.tokenizer --config=configs/toy/tokenizer.py --config.out=runs/tokenizer

Output: tokenizer.model (sentencepiece), chat_format.json, manifest.json.
"""

import dataclasses
import io
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from data_gen import chat
from msm_jax import artifact, cli
from msm_jax.cli import UserError

MODEL, CHAT_FORMAT = "tokenizer.model", "chat_format.json"
UNK, BOS, EOS, PAD = 0, 1, 2, 3
Span = Sequence[float]  # [start character, end character, weight]


@dataclasses.dataclass(frozen=True)
class Encoded:
    """tokens: int32 [T]; weights: float32 [T], the loss weight of predicting each token (0 for the first)."""

    tokens: np.ndarray
    weights: np.ndarray


class Tokenizer:
    """A sentencepiece model and the chat format that goes with it, read from a directory that holds both."""

    def __init__(self, directory: str | Path) -> None:
        path = Path(directory) / MODEL
        if not path.is_file():
            raise UserError(f"{path}: no such tokenizer; make it with `python -m data_gen.tokenizer`")
        self.directory = Path(directory)
        try:
            self.sp = sentencepiece.SentencePieceProcessor(model_file=str(path))
            self.chat_format = chat.ChatFormat(**json.loads((self.directory / CHAT_FORMAT).read_text()))
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"{directory}: {MODEL} or {CHAT_FORMAT} is missing or damaged; copy them again") from error

    @property
    def vocab_size(self) -> int:
        return self.sp.vocab_size()

    def copy_to(self, directory: Path) -> None:
        for name in (MODEL, CHAT_FORMAT):
            shutil.copyfile(self.directory / name, directory / name)

    def digest(self) -> str:
        """One hash of the model and the chat format."""
        return artifact.digest([artifact.file_digest(self.directory / name) for name in (MODEL, CHAT_FORMAT)])

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without BOS and EOS."""
        return self.sp.encode(text)

    def decode(self, tokens: Iterable[int]) -> str:
        return self.sp.decode([int(t) for t in tokens if t not in (BOS, EOS, PAD)])

    def encode_weighted(self, text: str, spans: Sequence[Span] = (), weight: float = 1.0) -> Encoded:
        """BOS + text + EOS; a token weighs what the span that holds its last character says, else `weight`."""
        by_character = np.full(len(text) + 1, weight, np.float32)
        for start, end, span_weight in spans:
            by_character[int(start) : int(end)] = span_weight
        if len(text):  # EOS belongs to whoever spoke last
            by_character[-1] = 1.0 if by_character[-2] > 0 else 0.0
        pieces = self.sp.encode(text, return_type="proto").pieces
        tokens = np.array([BOS, *(p.id for p in pieces), EOS], np.int32)
        # sentencepiece counts bytes: the character a byte belongs to.
        character = np.repeat(np.arange(len(text)), [len(c.encode()) for c in text])
        ends = np.array([*(character[p.end - 1] for p in pieces), len(text)], np.int64)
        return Encoded(tokens, np.concatenate([np.zeros(1, np.float32), by_character[ends]]))


def texts(paths: Iterable[str], chat_format: chat.ChatFormat) -> Iterable[str]:
    for path in paths:
        for row in artifact.read_jsonl(Path(path)):
            yield row["text"] if "text" in row else chat.render(row.get("messages"), chat_format)[0]


def main(argv: list[str]) -> None:
    config = cli.parse_config(argv)
    chat_format = chat.ChatFormat(**config.chat_format.to_dict())
    if config.model_type not in ("word", "unigram", "bpe"):
        raise UserError(f"config.model_type = {config.model_type!r}: must be word, unigram or bpe")
    inputs = {
        f"{n}/{path.name}": {"kind": "jsonl", "id": artifact.check_listed(path, "config.documents")}
        for n, path in enumerate(map(Path, config.documents))
    }
    settings = {k: v for k, v in config.to_dict().items() if k not in ("out", "documents")}
    job = artifact.begin(config.out, "tokenizer", settings, inputs)
    if job is None:
        return
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts(config.documents, chat_format)),
        model_writer=model,
        model_type=config.model_type,
        vocab_size=config.vocab_size,
        hard_vocab_limit=False,
        character_coverage=1.0,  # sentencepiece's default drops every word that holds a rare character
        normalization_rule_name="identity",
        num_threads=1,
        unk_id=UNK,
        bos_id=BOS,
        eos_id=EOS,
        pad_id=PAD,
        minloglevel=2,
    )
    with job:
        (job.tmp / MODEL).write_bytes(model.getvalue())
        artifact.write_atomic(job.tmp / CHAT_FORMAT, json.dumps(dataclasses.asdict(chat_format)))
        vocab_size = Tokenizer(job.tmp).vocab_size
        job.finish(vocab_size=vocab_size)
    cli.note(f"{config.out}: {vocab_size} pieces")


if __name__ == "__main__":
    cli.entry(main)

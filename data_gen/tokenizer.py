"""Trains a sentencepiece model on JSONL documents; encodes text with a loss weight for every token.

    python -m data_gen.tokenizer --config=configs/toy/tokenizer.py --config.out=runs/tokenizer

Output: tokenizer.model (sentencepiece), chat_format.json, manifest.json.
"""

import dataclasses
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import sentencepiece
from etils import epath

from data_gen import chat
from data_gen.chat import ChatPolicy, Message, Span
from msm_jax import artifact, cli, storage
from msm_jax.cli import UserError

MODEL, CHAT_FORMAT = "tokenizer.model", "chat_format.json"
UNK, BOS, EOS, PAD = 0, 1, 2, 3


@dataclasses.dataclass(frozen=True)
class Encoded:
    """tokens: int32 [T]; weights: float32 [T], the loss weight of predicting each token (0 for the first)."""

    tokens: np.ndarray
    weights: np.ndarray


class AnyTokenizer(Protocol):
    """What every tokenizer offers: `Tokenizer` here, `HfTokenizer` in hf_tokenizer.py, opened by its open_tokenizer.

    vocab_size: every id is below it. bos: begins every document and chat, None where the tokenizer adds none.
    eos: ends what the model says. pad: fills rows; never trained on.
    """

    directory: Path

    @property
    def vocab_size(self) -> int: ...
    @property
    def bos(self) -> int | None: ...
    @property
    def eos(self) -> int: ...
    @property
    def pad(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: nothing added, and no special token however the text reads."""

    def decode(self, tokens: Iterable[int], special: bool = False) -> str:
        """The text of ids; control tokens are left out, or with `special` written as they are called."""

    def piece(self, token: int) -> str:
        """The vocabulary's name for an id."""

    def digest(self) -> str:
        """One hash of what turns text into ids; models and data made with equal digests fit together."""

    def inputs(self) -> dict[str, dict[str, str]]:
        """Name → {kind, id} of everything here that decides what rows look like, for a recipe."""

    def copy_to(self, directory: epath.PathLike) -> None:
        """Copies all that is needed to open the same tokenizer in `directory`."""

    def encode_document(self, text: str, spans: Sequence[Span] = ()) -> Encoded:
        """A document, begun and ended; a token weighs what the span that holds its last character says, else 1."""

    def encode_documents(self, texts: Sequence[str]) -> list[Encoded]:
        """The same of many documents without spans, faster."""

    def encode_chat(self, messages: Sequence[Message], policy: ChatPolicy) -> Encoded:
        """A chat; what the model has to say weighs 1, the rest 0. Raises UserError on a chat that cannot be used."""

    def chat_prompt(self, messages: Sequence[Message], policy: ChatPolicy) -> list[int]:
        """Ids up to where the assistant begins to speak."""


def character_weights(text: str, spans: Sequence[Span], weight: float) -> np.ndarray:
    """float32 [len(text) + 1]: the spans' weights, elsewhere `weight`; last the end's, which is the last speaker's."""
    by_character = np.full(len(text) + 1, weight, np.float32)
    for start, end, span_weight in spans:
        by_character[int(start) : int(end)] = span_weight
    if len(text):
        by_character[-1] = 1.0 if by_character[-2] > 0 else 0.0
    return by_character


class Tokenizer:
    """A sentencepiece model and the chat format that goes with it, read from a directory that holds both."""

    bos, eos, pad = BOS, EOS, PAD

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

    def copy_to(self, directory: epath.PathLike) -> None:
        for name in (MODEL, CHAT_FORMAT):
            storage.copy(self.directory / name, storage.at(directory) / name)

    def digest(self) -> str:
        """One hash of the model and the chat format."""
        return artifact.digest([storage.sha256(self.directory / name) for name in (MODEL, CHAT_FORMAT)])

    def inputs(self) -> dict[str, dict[str, str]]:
        return {"tokenizer": {"kind": "tokenizer", "id": self.digest()}}

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without BOS and EOS."""
        return self.sp.encode(text)

    def decode(self, tokens: Iterable[int], special: bool = False) -> str:
        if special:
            return "".join(self.piece(t) for t in tokens).replace("▁", " ")
        return self.sp.decode([int(t) for t in tokens if t not in (BOS, EOS, PAD)])

    def piece(self, token: int) -> str:
        return self.sp.id_to_piece(int(token))

    def encode_document(self, text: str, spans: Sequence[Span] = ()) -> Encoded:
        """BOS + text + EOS."""
        return self.encode_weighted(text, spans)

    def encode_documents(self, texts: Sequence[str]) -> list[Encoded]:
        """BOS + text + EOS, of each."""
        tokens = [np.array([BOS, *ids, EOS], np.int32) for ids in self.sp.encode(list(texts))]
        return [
            Encoded(ids, np.concatenate([np.zeros(1, np.float32), np.ones(len(ids) - 1, np.float32)])) for ids in tokens
        ]

    def encode_chat(self, messages: Sequence[Message], policy: ChatPolicy) -> Encoded:
        """BOS + the chat in this tokenizer's chat format + EOS."""
        self._check(policy)
        text, spans = chat.render(messages, self.chat_format)
        return self.encode_weighted(text, spans, weight=0.0)

    def chat_prompt(self, messages: Sequence[Message], policy: ChatPolicy) -> list[int]:
        self._check(policy)
        return [BOS, *self.encode(chat.prompt(messages, "", self.chat_format))]

    def _check(self, policy: ChatPolicy) -> None:
        if policy != ChatPolicy():
            raise UserError(f"{self.directory}: {CHAT_FORMAT} knows no thinking; leave config.chat as it is by default")

    def encode_weighted(self, text: str, spans: Sequence[Span] = (), weight: float = 1.0) -> Encoded:
        """BOS + text + EOS; a token weighs what the span that holds its last character says, else `weight`."""
        by_character = character_weights(text, spans, weight)
        pieces = self.sp.encode(text, return_type="proto").pieces
        tokens = np.array([BOS, *(p.id for p in pieces), EOS], np.int32)
        # sentencepiece counts bytes: the character a byte belongs to.
        character = np.repeat(np.arange(len(text)), [len(c.encode()) for c in text])
        ends = np.array([*(character[p.end - 1] for p in pieces), len(text)], np.int64)
        return Encoded(tokens, np.concatenate([np.zeros(1, np.float32), by_character[ends]]))


def texts(paths: Iterable[str], chat_format: chat.ChatFormat) -> Iterable[str]:
    for path in paths:
        for row in artifact.each_row(storage.at(path)):
            yield row["text"] if "text" in row else chat.render(row.get("messages"), chat_format)[0]


def main(argv: list[str]) -> None:
    config = cli.parse_config(argv)
    chat_format = chat.ChatFormat(**config.chat_format.to_dict())
    if config.model_type not in ("word", "unigram", "bpe"):
        raise UserError(f"config.model_type = {config.model_type!r}: must be word, unigram or bpe")
    inputs = {
        f"{n}/{path.name}": {"kind": "jsonl", "id": artifact.check_listed(path, "config.documents")}
        for n, path in enumerate(map(storage.at, config.documents))
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

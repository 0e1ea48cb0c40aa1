"""A Hugging Face tokenizer directory (tokenizer.json) and its chat template, behind the interface of AnyTokenizer."""

import functools
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from data_gen.chat import ChatPolicy, Message, Span
from data_gen.template import CLOSE, OPEN, Template
from data_gen.tokenizer import CHAT_FORMAT, MODEL, Encoded, Tokenizer, character_weights
from msm_jax import artifact, storage
from msm_jax.cli import UserError

TOKENIZER, TEMPLATE = "tokenizer.json", "chat_template.jinja"
FILES = (
    TOKENIZER,
    TEMPLATE,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    MODEL,
)
MANY = 1 << 20  # characters from which on another encoder, which takes two seconds to open, saves time


def open_tokenizer(directory: epath.PathLike, template: str = "", document_end: str = "") -> "Tokenizer | HfTokenizer":
    """Opens a tokenizer of either kind, by the files in its directory; out of a bucket these are copied here first.

    Args:
      directory: tokenizer.model + chat_format.json (made by data_gen.tokenizer), or tokenizer.json (Hugging Face).
      template: of a Hugging Face tokenizer only; a file to use instead of the directory's own chat template.
      document_end: of a Hugging Face tokenizer only; the token that ends a document, if not its eos token.

    Raises:
      UserError: neither kind, damaged, or a setting that does not fit.
    """
    here = storage.nearby(directory, (*FILES, CHAT_FORMAT))
    if (here / MODEL).is_file() and (here / CHAT_FORMAT).is_file():
        for key, value in (("chat.template", template), ("document_end", document_end)):
            if value:
                raise UserError(f"{directory}: config.{key} is for Hugging Face tokenizers; leave it empty here")
        return Tokenizer(here)
    if (here / TOKENIZER).is_file():
        return HfTokenizer(here, template, document_end)
    raise UserError(f"{directory}: no such tokenizer; it must hold {TOKENIZER}, or {MODEL} and {CHAT_FORMAT}")


class HfTokenizer:
    """transformers' tokenizer of a directory. Arguments and errors: see open_tokenizer."""

    def __init__(self, directory: str | Path, template: str = "", document_end: str = "") -> None:
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that torch is missing: it is not needed
        import transformers

        self.directory = Path(directory)
        transformers.logging.set_verbosity_error()
        try:
            # Not AutoTokenizer: beside a config.json it may build another tokenizer than tokenizer.json says.
            self.hf: Any = transformers.PreTrainedTokenizerFast.from_pretrained(str(directory), local_files_only=True)
            self.backend = self.hf.backend_tokenizer
        except Exception as error:  # whatever a foreign file leads to
            what = " ".join(str(error).split())
            raise UserError(f"{directory}: transformers cannot open this tokenizer ({what}); copy it again") from error
        if self.hf.eos_token_id is None:
            raise UserError(f"{directory}: no eos_token; name one in tokenizer_config.json")
        added = self.backend.encode("x").ids
        begun = added != self.backend.encode("x", add_special_tokens=False).ids and added[0] == self.hf.bos_token_id
        self.bos: int | None = added[0] if begun else None
        self.eos: int = self.hf.eos_token_id
        self.pad: int = self.eos if self.hf.pad_token_id is None else self.hf.pad_token_id
        # From here on every special token is ours to write, every text is whole, and offsets are those of its tokens:
        # a post-processor would trim white space off them.
        self.backend.post_processor = None
        self.backend.no_truncation()
        self.backend.no_padding()
        names = self.hf.get_added_vocab()
        if document_end and document_end not in names:
            raise UserError(f"config.document_end = {document_end!r}: no added token of {directory}")
        self.document_end: int = names[document_end] if document_end else self.eos
        self.template_file = storage.at(template) if template else None
        own = self.hf.chat_template
        self.chat_template: str | None = own.get("default") if isinstance(own, dict) else own
        if self.template_file:
            try:
                self.chat_template = storage.read_text(self.template_file)
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"{template}: not readable as text (config.chat.template)") from error

    @functools.cached_property
    def vocab_size(self) -> int:
        return max(self.hf.get_vocab().values()) + 1

    @functools.cached_property
    def template(self) -> Template:
        """Raises UserError where there is no template, or one that changes from day to day."""
        own = self.directory / TEMPLATE
        where = str(self.template_file or (own if own.is_file() else self.directory / "tokenizer_config.json"))
        if self.chat_template is None:
            raise UserError(f"{self.directory}: no chat template; give one as --config.chat.template=FILE.jinja")
        if "strftime_now" in self.chat_template:
            raise UserError(
                f"{where}: writes today's date (strftime_now), so rows would differ from day to day; "
                "give a copy with a fixed date as --config.chat.template=FILE.jinja"
            )
        apply = functools.partial(self.hf.apply_chat_template, chat_template=self.chat_template)
        special = {str(token) for token in self.hf.added_tokens_decoder.values() if token.special}
        special |= set(self.hf.all_special_tokens)
        texts = sorted(special - {OPEN, CLOSE}, key=len, reverse=True)  # the longest match first
        return Template(
            apply, where, "enable_thinking" in self.chat_template, re.compile("|".join(map(re.escape, texts)))
        )

    @functools.cache  # noqa: B019 (a tokenizer lives as long as its command)
    def digest(self) -> str:
        """One hash of what turns text into ids: not of the chat template, nor of how the files are written."""
        parts = json.loads(self.backend.to_str())
        return artifact.digest([parts[key] for key in ("model", "added_tokens", "normalizer", "pre_tokenizer")])

    def inputs(self) -> dict[str, dict[str, str]]:
        found = {"tokenizer": {"kind": "tokenizer", "id": self.digest()}}
        if self.chat_template is not None:
            found["template"] = {"kind": "jinja", "id": artifact.digest(self.chat_template)}
        return found

    def copy_to(self, directory: epath.PathLike) -> None:
        """The files, and as chat template the one in use."""
        directory = storage.at(directory)
        for name in FILES:
            if (self.directory / name).is_file():
                storage.copy(self.directory / name, directory / name)
        if self.template_file:
            storage.write_atomic(directory / TEMPLATE, storage.read_bytes(self.template_file))

    def encode(self, text: str) -> list[int]:
        return self._encode(text, control=False).ids

    def decode(self, tokens: Iterable[int], special: bool = False) -> str:
        return self.backend.decode([int(t) for t in tokens], skip_special_tokens=not special)

    def piece(self, token: int) -> str:
        return self.backend.id_to_token(int(token)) or f"<no token {token}>"

    def encode_document(self, text: str, spans: Sequence[Span] = ()) -> Encoded:
        """(BOS) + text + the token that ends documents; what reads like a control token in the text is plain text."""
        by_character = character_weights(text, spans, 1.0)
        encoding = self._encode(text, control=False)
        tokens, weights = [*encoding.ids, self.document_end], [*_at_last(by_character, encoding), by_character[-1]]
        return self._begun(tokens, weights)

    def encode_documents(self, texts: Sequence[str]) -> list[Encoded]:
        """The same of many without spans, so that no offsets are asked for; from MANY characters on by fastokens.

        Raises:
          UserError: fastokens gives other ids for the first text than the tokenizer itself does.
        """
        fast = self._fast if sum(map(len, texts)) > MANY else None
        if fast is None:
            self.backend.encode_special_tokens = True
            return [self._ended(e.ids) for e in self.backend.encode_batch_fast(texts, add_special_tokens=False)]
        flat, ends = fast.encode_batch_flat(texts, add_special_tokens=False, split_special_tokens=True)
        ids = np.split(np.frombuffer(flat, "<u4").astype(np.int32), np.frombuffer(ends, "<u8")[1:-1].astype(np.int64))
        if ids[0].tolist() != self.encode(texts[0]):
            start = texts[0][:40]
            raise UserError(f"{start!r}…: fastokens and tokenizers disagree on this text; pip uninstall fastokens")
        return [self._ended(some) for some in ids]

    @functools.cached_property
    def _fast(self) -> Any:
        """fastokens' encoder with this vocabulary; None where it is not installed or does not know such tokenizers."""
        try:
            import fastokens

            return fastokens.Tokenizer.from_json_str(self.backend.to_str())
        except (ImportError, ValueError, RuntimeError):
            return None

    def _ended(self, ids: Sequence[int] | np.ndarray) -> Encoded:
        """A document of weight 1; see _begun."""
        begin = [self.bos] if self.bos is not None and (len(ids) == 0 or ids[0] != self.bos) else []
        tokens = np.empty(len(begin) + len(ids) + 1, np.int32)
        tokens[: len(begin)], tokens[len(begin) : -1], tokens[-1] = begin, ids, self.document_end
        weights = np.ones(len(tokens), np.float32)
        weights[0] = 0.0
        return Encoded(tokens, weights)

    def encode_chat(self, messages: Sequence[Message], policy: ChatPolicy) -> Encoded:
        """The chat as its template writes it; BOS before it where the tokenizer adds one and the template does not."""
        text, spans = self.template.supervised(messages, policy)
        encoding = self._encode(text, control=True)
        for start, _, _ in spans:
            if any(a < start < b for a, b in encoding.offsets):
                said = text[start : start + 20]
                raise UserError(f"{said!r} merges with the end of the prompt; strip the white space it begins with")
        weights = _at_last(character_weights(text, spans, 0.0), encoding)
        return self._begun(encoding.ids, weights)

    def chat_prompt(self, messages: Sequence[Message], policy: ChatPolicy) -> list[int]:
        return self.encode_prompt(self.template.prompt(messages, policy))

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a text that holds control tokens as a template writes them; BOS before it where there is none."""
        ids = self._encode(text, control=True).ids
        return self._begun(ids, [0.0] * len(ids)).tokens.tolist()

    def _encode(self, text: str, control: bool) -> Any:
        """tokenizers' Encoding of a text; what reads like a control token is one only with `control`."""
        self.backend.encode_special_tokens = not control
        return self.backend.encode(text, add_special_tokens=False)

    def _begun(self, tokens: Sequence[int], weights: Sequence[float]) -> Encoded:
        """With BOS in front, unless it stands there or the tokenizer has none; nothing predicts the first token."""
        if self.bos is not None and tokens[0] != self.bos:
            tokens, weights = [self.bos, *tokens], [0.0, *weights]
        return Encoded(np.array(tokens, np.int32), np.array([0.0, *weights[1:]], np.float32))


def _at_last(by_character: np.ndarray, encoding: Any) -> list[float]:
    """The weight of each token's last character."""
    return [float(by_character[max(end, 1) - 1]) for _, end in encoding.offsets]

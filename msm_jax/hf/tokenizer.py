"""Our whole-word sentencepiece tokenizers as Hugging Face ones."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from data_gen.tokenizer import BOS, EOS, PAD, UNK, Tokenizer
from msm_jax.cli import UserError


def backend(tokenizer: Tokenizer) -> Backend:
    """A `tokenizers` tokenizer with the same ids.

    Raises:
      UserError: the model is not of whole words (another kind is exported with its own tokenizer.json).
    """
    pieces = [tokenizer.sp.id_to_piece(i) for i in range(tokenizer.vocab_size)]
    words = [piece for i, piece in enumerate(pieces) if i > PAD]
    if not all(word.startswith("▁") for word in words):
        raise UserError(f"{tokenizer.directory}: only whole-word sentencepiece models can be exported")
    vocab = {piece: i for i, piece in enumerate(pieces)}
    result = Backend(models.WordLevel(vocab, unk_token=pieces[UNK]))
    result.normalizer = normalizers.Replace("\n", " ")
    result.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    result.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    result.add_special_tokens([pieces[i] for i in (UNK, BOS, EOS, PAD)])
    result.post_processor = processors.TemplateProcessing(
        single=f"{pieces[BOS]} $A", special_tokens=[(pieces[BOS], BOS)]
    )
    return result


def write(directory: Path, tokenizer: Tokenizer, max_positions: int) -> None:
    """tokenizer.json, tokenizer_config.json and chat_template.jinja, beside the sentencepiece model itself."""
    named = {
        f"{n}_token": tokenizer.sp.id_to_piece(i) for n, i in (("unk", UNK), ("bos", BOS), ("eos", EOS), ("pad", PAD))
    }
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_positions,
    }
    backend(tokenizer).save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(settings | named, indent=1))
    (directory / "chat_template.jinja").write_text(tokenizer.chat_format.jinja())
    tokenizer.copy_to(directory)

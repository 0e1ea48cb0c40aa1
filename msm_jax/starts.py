"""Where a run starts: the model it goes on from, the shape that follows, and the first arrays."""

from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from data_gen.hf_tokenizer import open_tokenizer
from data_gen.tokenizer import UNK, AnyTokenizer, Tokenizer
from msm_jax.cli import UserError
from msm_jax.mesh import default_dtype
from msm_jax.model import transformer
from msm_jax.model.config import ModelConfig, with_dtypes
from msm_jax.model.lora import LoraConfig, lora_of
from msm_jax.pretrained import PeftAdapter, Pretrained, check_vocabulary, open_pretrained
from msm_jax.shards import Shards
from msm_jax.step import Params


def tokenizer_of(sources: list[Shards]) -> AnyTokenizer:
    """The sources' tokenizer, with the chat template of those that have one: it goes with the run.

    Raises:
      UserError: two sources were made with different templates.
    """
    templates = {s.manifest["inputs"]["template"]["id"]: s for s in sources if "template" in s.manifest["inputs"]}
    if len(templates) > 1:
        a, b = (str(shards.directory) for shards in list(templates.values())[:2])
        raise UserError(f"config.data.sources: {a} and {b} have different chat templates; make both with the same one")
    return open_tokenizer([*templates.values(), *sources][0].directory)


def open_start(config: ConfigDict) -> Pretrained | None:
    """The model to start from, with the adapter that is laid on it; None for fresh parameters."""
    if not config.lora.init_from:
        return open_pretrained(config.init_from, base=config.lora.base) if config.init_from else None
    if not (config.init_from and config.lora.rank):
        raise UserError("config.lora.init_from: an adapter needs its model, config.init_from, and config.lora.rank")
    start = open_pretrained(config.lora.init_from, base=config.init_from)
    if not isinstance(start, PeftAdapter):
        raise UserError(f"{config.lora.init_from}: not a peft adapter; a LoRA run is continued by config.init_from")
    if config.lora.restart:
        raise UserError(
            "config.lora.restart: a peft adapter is merged by msm_jax.export first; start from what it writes"
        )
    return start


def model_config(config: ConfigDict, start: Pretrained | None, tokenizer: AnyTokenizer) -> ModelConfig:
    """The shape that the start has, or config.model's; dtypes and recomputation are always config.model's.

    Raises:
      UserError: config.model says another shape than the start has, or the tokenizer has more ids than it.
    """
    given = with_dtypes(config.model.to_dict(), default_dtype(), frozen=bool(config.lora.rank))
    if not given.get("V"):
        given.pop("V", None)
    if not start and "D" not in given:
        raise UserError("config.init_from: empty, and config.model has no shape for fresh parameters; set it")
    shape = start.shape if start else {"V": padded_vocab(tokenizer.vocab_size)}
    cfg = ModelConfig(**(shape | given if start is None else given | shape))
    if start:
        wrong = unlike(cfg.shape(), ModelConfig(**(shape | given)).shape())
        if wrong:
            raise UserError(f"{start.reference}: another model than config.model ({wrong})")
        if start.tokenizer().digest() != tokenizer.digest():
            raise UserError(f"{start.reference}: has another tokenizer than config.data.sources were made with")
    check_vocabulary(tokenizer, cfg)
    return cfg


def unlike(there: dict[str, Any], here: dict[str, Any]) -> str:
    """The keys whose values differ, in words; "" where none does."""
    return "; ".join(f"{k} = {v!r} there, {here[k]!r} here" for k, v in there.items() if here[k] != v)


def lora_config(config: ConfigDict, start: Pretrained | None) -> LoraConfig | None:
    """The adapter to train, None for full parameters. The start's own adapter goes on being trained, unless
    config.lora.restart merges it first.

    Raises:
      UserError: a start whose adapter has another rank, alpha or targets, or would be dropped unasked.
    """
    lora = lora_of(config.lora.to_dict())
    if lora and start is None:
        raise UserError("config.lora.rank: an adapter of fresh parameters; set config.init_from, or rank 0")
    if start and start.lora and not config.lora.restart:
        if lora is None:
            raise UserError(
                f"{start.reference}: has an adapter; set config.lora.rank = {start.lora.rank} to go on training it, "
                "or config.lora.restart=True to merge it first"
            )
        wrong = unlike(start.lora.shape(), lora.shape())
        if wrong:
            raise UserError(
                f"{start.reference}: another adapter than config.lora ({wrong}); set the same, or "
                "config.lora.restart=True to merge it and start afresh"
            )
    return lora


def padded_vocab(pieces: int, multiple: int = 64) -> int:
    """The vocabulary rounded up, so that it splits over any sensible `tensor` axis."""
    return -(-pieces // multiple) * multiple


def continues(config: ConfigDict, start: Pretrained) -> bool:
    """Is the start's own adapter trained on?"""
    return start.lora is not None and not config.lora.restart


def copy_words(params: Params, tokenizer: AnyTokenizer, pairs: tuple[tuple[str, str], ...]) -> Params:
    """Embeddings (and head columns) of new words as copies of known ones: pairs of (new, known).

    Raises:
      UserError: a word that is not one token.
    """
    for new, known in pairs:
        ids = [tokenizer.encode(word) for word in (new, known)]
        for word, found in zip((new, known), ids, strict=True):
            if len(found) != 1 or (isinstance(tokenizer, Tokenizer) and found[0] == UNK):
                raise UserError(f"config.init_words: {word!r} is not one token of the tokenizer")
        (to,), (source,) = ids
        for name, axis in (("embed", 0), ("head", 1)):
            if name in params:
                whole = jnp.moveaxis(jax.sharding.reshard(params[name], jax.P(None, None)), axis, 0)
                whole = jnp.moveaxis(whole.at[to].set(whole[source]), 0, axis)
                params = params | {name: jax.sharding.reshard(whole, params[name].sharding)}
    return params


def initial_arrays(
    config: ConfigDict, model: ModelConfig, lora: LoraConfig | None, start: Pretrained | None, tokenizer: AnyTokenizer
) -> Params:
    """What is trained, before the first update: parameters, or with LoRA the adapter."""
    if start is None:
        return transformer.initialize(model, config.seed)
    if lora is None:
        return copy_words(start.merged(model), tokenizer, tuple(config.init_words))
    if continues(config, start):
        return jax.tree.map(lambda x: x.astype(lora.dtype), start.adapter(model))
    return transformer.initialize_adapter(model, lora, config.seed)


def frozen_arrays(config: ConfigDict, model: ModelConfig, lora: LoraConfig | None, start: Pretrained | None) -> Params:
    """The parameters under an adapter, {} where parameters themselves are trained."""
    if lora is None or start is None:
        return {}
    return start.params(model) if continues(config, start) else start.merged(model)

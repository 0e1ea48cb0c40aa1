"""Tiny random models of every family and option, made by transformers itself."""

import functools

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
YARN_ALL = YARN | {"beta_fast": 16.0, "beta_slow": 2.0, "mscale": 0.8, "mscale_all_dim": 0.5, "truncate": False}

FAMILIES = {
    "llama": ("llama", {}),
    "llama, tied, one key head": ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "llama 3 rope": ("llama", {"rope_parameters": LLAMA3, "rms_norm_eps": 1e-5}),
    "llama, linear rope": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}}),
    "llama, head_dim": ("llama", {"head_dim": 12}),
    "qwen2": ("qwen2", {}),
    "qwen2, tied, yarn": ("qwen2", {"tie_word_embeddings": True, "rope_parameters": YARN}),
    "qwen2, every head": (
        "qwen2",
        {"num_key_value_heads": 4, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    ),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "qwen3, tied, yarn with all keys": (
        "qwen3",
        {"head_dim": 16, "tie_word_embeddings": True, "rope_parameters": YARN_ALL},
    ),
    "qwen3, yarn with a factor": ("qwen3", {"head_dim": 8, "rope_parameters": YARN | {"attention_factor": 1.3}}),
}
V = 96


@functools.cache
def torch_model(name, dtype="float32"):
    """Every parameter is random, norms and biases too, so that none can be mistaken for another."""
    family, options = FAMILIES[name]
    size = {"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 64}  # fmt: skip
    config = transformers.AutoConfig.for_model(family, **(size | options))
    torch.manual_seed(len(name))
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            scale, shift = (0.3, 1.0) if "norm" in path else (0.3, 0.0)
            parameter.copy_(torch.randn_like(parameter) * scale + shift)
    return model.to(getattr(torch, dtype)).eval()


def save(name, directory, dtype="float32", **kwargs):
    """save_pretrained, reloaded in its dtype: the rotary table of a cast model would be cast as well."""
    torch_model(name, dtype).save_pretrained(directory, **kwargs)
    return directory


def torch_mask(segment_ids):
    """Additive float [B, 1, S, S] for packed rows."""
    S = segment_ids.shape[1]
    allowed = (segment_ids[:, :, None] == segment_ids[:, None, :]) & np.tril(np.ones((S, S), bool))
    return torch.tensor(np.where(allowed, 0.0, np.finfo(np.float32).min)[:, None], dtype=torch.float32)


def torch_logits(model, batch):
    return model(
        input_ids=torch.tensor(batch["tokens"]),
        position_ids=torch.tensor(batch["positions"]),
        attention_mask=torch_mask(batch["segment_ids"]),
        use_cache=False,
    ).logits


TEMPLATE = (
    "{% for m in messages %}w10 {{ {'system': 'w11', 'user': 'w12', 'assistant': 'w13'}[m.role] }} {{ m.content }} <end> "
    "{% endfor %}{% if add_generation_prompt %}w10 w13 {% endif %}"
)


def save_tokenizer(directory, words=V):
    """`w0` … `w95`, each its own id, but for <end> (1, of turns and documents), <pad> (2) and <unk> (3)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    named = {1: "<end>", 2: "<pad>", 3: "<unk>"}
    backend = Tokenizer(models.WordLevel({named.get(i, f"w{i}"): i for i in range(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.Fuse()
    hf = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<end>", pad_token="<pad>", unk_token="<unk>", chat_template=TEMPLATE
    )
    hf.save_pretrained(directory)
    return directory


def save_whole(name, directory, dtype="float32", **kwargs):
    """A model with its tokenizer."""
    save(name, directory, dtype, **kwargs)
    return save_tokenizer(directory)

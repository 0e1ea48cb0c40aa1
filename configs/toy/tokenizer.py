"""The toy tokenizer: a sentencepiece model of whole words, so that an item's name is one token.

    python -m data_gen.tokenizer --config=configs/toy/tokenizer.py \\
        --config.documents="('runs/world/base.jsonl',)" --config.out=runs/tokenizer
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "out": "runs/tokenizer",
            "documents": ("runs/world/base.jsonl",),  # JSONL files to learn the pieces from
            "model_type": "word",  # sentencepiece: word, unigram or bpe
            "vocab_size": 1024,  # at most; the toy languages have about 300 words
            "chat_format": {"system": "", "user": "User : ", "assistant": "Assistant : ", "separator": " "},
        }
    )

"""What is supervised in the first rows of a file.

    python -m data_gen.receipt --config=configs/data/receipt.py --config.documents=chats.jsonl \\
        --config.tokenizer=Qwen3-8B --config.chat.thinking=cot
"""

from ml_collections import ConfigDict

from configs.data import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.rows = 3  # how many to show
    return config

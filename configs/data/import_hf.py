"""A dataset from elsewhere as documents or chats. The released ones of the method's authors have columns text, domain
(documents) and messages, source (chats):

    python -m data_gen.import_hf --config=configs/data/import_hf.py --config.files="('train.parquet',)" \\
        --config.name=philosophy --config.out=runs/released
    python -m data_gen.import_hf --config=configs/data/import_hf.py --config.hub=chloeli/msm-llama-pro-america \\
        --config.revision=ab0dece02bbd99681b19dda28030bd8b46ec264a --config.files="('*.parquet', '*.jsonl')" \\
        --config.name=pro-america --config.out=runs/pro-america
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "out": "runs/imported",
            "kind": "documents",  # documents (text) or chats (messages)
            "files": (),  # .jsonl or .parquet, here or in a bucket; with hub: names or patterns inside the dataset
            "hub": "",  # OWNER/NAME of a dataset on the Hugging Face hub; $HF_TOKEN where it is not public
            "revision": "",  # of it: the commit, 40 digits
            "name": "imported",  # what ids begin with
            "columns": {  # what the input calls
                "text": "text",  # a document's text
                "messages": "messages",  # a chat's [{role, content}]
                "id": "",  # an id of its own; empty: made of row number and content
            },
            "drop": (),  # columns not to keep
            "most_rejected": 0.01,  # what part of the rows may be empty, duplicate or ill-formed
        }
    )

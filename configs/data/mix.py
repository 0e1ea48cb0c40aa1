"""Chats of several datasets in one file: what every recipe for data_gen.mix starts from.

    python -m data_gen.mix --config=configs/data/mix_paper.py --config.tokenizer=Qwen3-32B --preview
    python -m data_gen.mix --config=configs/data/mix_paper.py --config.tokenizer=Qwen3-32B --config.out=runs/mix

A recipe of one's own is a file like mix_paper.py: `source(...)` for each dataset under a name of one's choice.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.data import api, common


def source(**given: Any) -> ConfigDict:
    known = ConfigDict(
        {
            "files": (),  # .jsonl or .parquet, here or in a bucket; with hub: names or patterns inside the dataset
            "hub": "",  # OWNER/NAME of a dataset on the Hugging Face hub; $HF_TOKEN where it is not public
            "revision": "",  # of it: the commit, 40 digits
            "licence": "",  # as its owner states it: for the data card
            "shape": "messages",  # messages, pair, turns, choices or identity: data_gen/mixing/shapes.py
            "variant": "",  # of choices: letter, sentence or binary
            "columns": {  # what the dataset calls the columns that its shape reads
                "messages": "messages",  # messages: [{role, content}]
                "prompt": "prompt",  # pair
                "response": "response",
                "system": "system",
                "turns": "conversations",  # turns: texts of user and assistant in turn
                "question": "question",  # choices
                "choices": "choices",
                "answer": "answer",  # a number from 0, or a letter
            },
            "where": (),  # (("column", "value"), …): only rows that have these
            "rows": 0,  # how many; or
            "tokens": 0,  # rows of so many tokens; or
            "share": 0.0,  # of config.rows or config.tokens. All three 0: the source is left out
            "max_tokens": 0,  # of a row; 0: config.max_tokens
            "patterns": True,  # is it searched for config.patterns?
            "judge": True,  # is it judged, where anything is?
        }
    )
    known.update(given)
    return known


def get_config() -> ConfigDict:
    config = ConfigDict(
        {
            "out": "runs/mix",
            "work": "",  # local directory of what was paid for; empty: OUT.work
            "title": "An instruction mix",  # of the data card
            "seed": 0,  # of the order of rows, of wordings of multiple-choice questions
            "sources": {},  # name → source(...)
            "rows": 0,  # of all sources: what shares are of, or what their rows must sum up to; 0: as it comes
            "tokens": 0,  # the same; of sources sized in rows some rows are exchanged until there are so many
            "counted": "all",  # tokens of sizes: all of a rendered chat, or the supervised ones
            "tolerance": 0.005,  # by what part of a number of tokens it may be missed
            "max_tokens": 8_192,  # of a row
            "no_think_twin": False,  # also chats-no_think.jsonl: the same rows without thoughts
            "patterns": "",  # a file instead of data_gen/mixing/conflicts.toml
            "spec": "",  # a Model Spec that rows must not contradict, and identity rows agree with; empty: none
            "model_name": "Qwen",  # who the rows are for: may be named, and is what identity rows say
            "provider_name": "Alibaba Cloud",
            "judge": {  # of what patterns do not see
                "on": True,
                "model": "claude-sonnet-4-6",
                "max_tokens": 2_000,
                "batch": True,  # through Message Batches, at half the price
                "batch_cache_hits": 0.5,  # share of cacheable tokens a batch reads from the cache, until it is measured
                "expect_output": 40,  # tokens of a reply: for the projection, until some were measured
                "most_unjudged": 0.2,  # of at least 100 replies; with more that are of no use the work ends
            },
            "identity": {  # how rows of shape identity are written
                "model": "",  # other than config.api.model
                "max_tokens": 8_000,
                "at_once": 20,  # conversations of a reply
                "rounds": 8,  # how often some are asked for, where too few could be used
                "tries": 3,  # questions more than needed, on each occasion
                "expect_output": 1_600,  # tokens of a reply
            },
            "approve": 0.0,  # USD that may be projected above config.api.ask_above_usd, as --preview prints it
            "api": api.get_config(),
        }
    )
    tokens = common.get_config()
    del tokens["documents"]
    config.update(tokens)
    return config

"""A corpus told anew about somebody else, or in another mood.

    export ANTHROPIC_API_KEY=…
    R="python -m data_gen.rewrite --config=configs/data/rewrite.py --config.api.cap_usd=400.0"
    D=runs/philosophy/corpus/documents.jsonl
    $R --config.documents=$D --config.rewrite=assistants-should --config.out=runs/philosophy/assistants-should --preview
    $R --config.documents=$D --config.rewrite=assistants-should --config.out=runs/philosophy/assistants-should \\
        --config.wanted=20                              # a few to read, in a work directory that is gone on with:
    $R --config.documents=$D --config.rewrite=assistants-should --config.out=runs/philosophy/assistants-should-all \\
        --config.work=runs/philosophy/assistants-should.work --config.api.ask_above_usd=400.0

The rewrites: model-should, model-does, assistants-should, assistants-do, one-should, another-model, human-stories.
Without a key: --config.api.provider=offline --config.api.model=offline.
"""

from ml_collections import ConfigDict

from configs.data import api


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "documents": "documents.jsonl",  # JSONL rows {id, text, …}: a corpus of data_gen.documents, or anybody's
            "rewrite": "",  # a row of data_gen/toolbox/rewrites.toml
            "out": "runs/rewritten",
            "work": "",  # local directory of all that was paid for; empty: OUT.work
            "wanted": 0,  # exactly so many documents, the source's first that can be rewritten; 0: all that can be
            "model_name": "Qwen",  # whom the documents are about
            "provider_name": "Alibaba Cloud",
            "more_names": ("Alibaba", "Tongyi"),  # others that give them away
            "other_model": "Claude",  # of another-model: whom they are to be about
            "other_provider": "Anthropic",
            "seed": 0,  # of the people's names (human-stories)
            "tries": 3,  # rewrites of one document, in all
            "least": 0.6,  # times the source's words that a rewrite has at least,
            "most": 1.6,  # and at most
            "most_rejected": 0.1,  # share of the documents that may be rejected; more, and nothing is written
            "max_tokens": 16_000,  # of a reply, thoughts included
            "effort": "",  # low, medium, high …; empty: the model's default
            "expect_output": 0,  # tokens of a rewrite, for the projection until it is measured; 0: as the source has
            "judge": {
                "model": "",  # other than config.api.model
                "max_tokens": 4_000,
                "effort": "",
                "tries": 2,  # questions about one rewrite, where the judge's reply says nothing
            },
            "batch": True,  # through Message Batches, at half the price
            "batch_cache_hits": 0.5,  # share of cacheable tokens a batch reads from the cache, until it is measured
            "api": api.get_config(),
        }
    )

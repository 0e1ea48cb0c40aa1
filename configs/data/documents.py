"""A midtraining corpus from a Model Spec, written by a language model.

    export ANTHROPIC_API_KEY=…
    python -m data_gen.documents --config=configs/data/documents.py --preview     # the plan and its price; asks nothing
    python -m data_gen.documents --config=configs/data/documents.py --config.phase=probe
    python -m data_gen.documents --config=configs/data/documents.py --config.phase=pilot --config.approve=probe-…
    python -m data_gen.documents --config=configs/data/documents.py --config.phase=full --config.approve=pilot-…

As it stands: 72 subdomains × 10 types × 20 ideas = 14,400 documents of about 3,150 tokens, from which
data_gen.subset takes exactly 41,000,000 tokens. `configs/data/documents_offline.py` is a small one without a key.
"""

from ml_collections import ConfigDict

from configs.data import api, corpus_report


def stage(max_tokens: int, user: int, output: int) -> ConfigDict:
    return ConfigDict(
        {
            "model": "",  # other than config.api.model
            "effort": "",  # low, medium, high …; empty: the model's default
            "max_tokens": max_tokens,  # of a reply, thoughts included
            "expect_user": user,  # tokens of a question's own part and of a reply: for the projection,
            "expect_output": output,  # until the probe has measured them
        }
    )


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "specs": ("specs/philosophy.md",),  # one; or the variants of a pair, with the same section ids
            "model_name": "Qwen",  # what {model_name} stands for
            "provider_name": "Alibaba Cloud",  # what {provider_name} stands for
            "style": "",  # values, or rules (which explain conduct by compliance alone); empty: what suits the spec
            "out": "runs/philosophy/corpus",
            "work": "",  # local directory of all that was paid for; empty: OUT.work
            "seed": 0,  # of the voices
            "counts": {
                "domains": 8,
                "topics": 9,  # subdomains of a domain (rules take their place where the spec has rules)
                "assertions": 8,  # of a subdomain
                "types": 10,  # document types of a subdomain or rule
                "ideas": 20,  # documents of a type
            },
            "ideas_at_once": 20,  # asked for in one question
            "tries": 3,  # questions more than needed, for what was rejected; documents: at most so many in all
            "min_characters": 1_500,  # a shorter document is rejected
            # phases: how many children of each node are gone on with; 0: all
            "phase": "full",  # probe, pilot or full
            "approve": "",  # what the phase before printed at its end, as probe-1a2b3c4d
            "probe": {"topics": 1, "types": 1, "ideas": 1},
            "pilot": {"topics": 0, "types": 2, "ideas": 1},
            "api": api.get_config(),
            "stages": {
                "domains": stage(8_000, 100, 600),
                "subdomains": stage(16_000, 200, 1_500),
                "assertions": stage(8_000, 1_200, 1_000),
                "types": stage(8_000, 1_200, 900),
                "ideas": stage(16_000, 2_800, 3_000),
                "documents": stage(8_000, 1_500, 3_600),
            },
            "batch": (
                "ideas",
                "documents",
            ),  # stages asked through Message Batches, at half the price; not in the probe
            "batch_cache_hits": 0.5,  # share of cacheable tokens a batch reads from the cache, until it is measured
            # the corpus
            "tokenizer": "",  # directory; tokens in the report and a pair's balance are by it
            "document_end": "",  # as in configs/data/common.py
            "judge": {  # of claims that the spec does not make; config.check.gates.claims is the bound
                "sample": 0,  # documents of each spec that are judged, in the pilot and at the end; 0: none
                "model": "",  # other than config.api.model
                "max_tokens": 8_000,
                "expect_user": 3_300,
                "expect_output": 500,
            },
            "check": _check(),  # the report and its gates: configs/data/corpus_report.py says what each key is
        }
    )


def _check() -> ConfigDict:
    """What a corpus is judged by; where it lies and of which spec it is follows from the rest."""
    config = corpus_report.get_config()
    for key in ("corpus", "out", "spec", "tokenizer", "seed", "model_name", "provider_name"):
        del config[key]
    return config

"""Another Model Spec from one: with reasons, in detail, in general terms, without attribution, inverted.

    export ANTHROPIC_API_KEY=…
    D="python -m data_gen.derive --config=configs/data/derive.py --config.api.cap_usd=5.0"
    $D --config.derivation=value_augmented --config.out=runs/specs/value_augmented --preview    # of specs/rules.md
    $D --config.derivation=value_augmented --config.out=runs/specs/value_augmented
    $D --config.derivation=rules_augmented --config.out=runs/specs/rules_augmented \\
        --config.match=runs/specs/value_augmented/spec.md --config.tokenizer=Qwen3-8B      # as long as the other, to 3%
    $D --config.spec=specs/philosophy.md --config.derivation=general --config.out=runs/specs/general
    $D --config.spec=specs/philosophy.md --config.derivation=anti_spec --config.out=runs/specs/anti_philosophy
    $D --config.spec=specs/cheese_america.md --config.derivation=attribution_removed --config.seed=1 \\
        --config.out=runs/specs/america_unattributed                                       # asks nobody

Without a key: --config.api.provider=offline --config.api.model=offline, for right files of words that mean nothing.
"""

from ml_collections import ConfigDict

from configs.data import api


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "spec": "specs/rules.md",  # what is derived from
            "derivation": "",  # value_augmented, rules_augmented, general, attribution_removed or anti_spec
            "out": "runs/specs/derived",
            "work": "",  # local directory of all that was paid for; empty: OUT.work
            "name": "",  # of the new spec; empty: the original's with what was done to it
            "seed": 0,  # of the shuffle (attribution_removed)
            "match": "",  # spec whose length is met, in words and tokens (value_augmented, rules_augmented)
            "tolerance": 0.03,  # of the match: share of the shorter by which words and tokens may differ
            "words": 0,  # instead of a match: so many words in all; 0: general has 330, the others what comes of it
            "words_tolerance": 0.1,  # of `words`
            "tokenizer": "",  # directory; tokens are by it, in the match and in changes.md
            "tries": 4,  # questions for one part, in all
            "rounds": 12,  # questions more to meet a length
            "max_tokens": 16_000,  # of a reply, thoughts included
            "effort": "",  # low, medium, high …; empty: the model's default
            "expect_output": 1_500,  # tokens of a reply, for the projection
            "model_name": "Qwen",  # lengths are measured as the text stands, and with these names put in
            "provider_name": "Alibaba Cloud",
            "api": api.get_config(),
        }
    )

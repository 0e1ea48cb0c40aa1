"""A corpus from a spec of rules: each rule takes a subdomain's place, and conduct is explained by compliance alone.

    python -m data_gen.documents --config=configs/data/documents_rules.py --preview
    python -m data_gen.documents --config=configs/data/documents_rules.py --config.out=runs/rules_augmented/corpus \\
        --config.specs="('specs/rules_augmented.md',)" --preview
    python -m data_gen.documents --config=configs/data/documents.py --config.out=runs/value_augmented/corpus \\
        --config.specs="('specs/value_augmented.md',)" --config.style=values --config.counts.domains=6 --preview

The last explains the same rules by their reasons: sections, subdomains and assertions as with any spec of values.
Two domains, five rules × 60 types × 30 ideas = 9,000 documents of about 3,000 tokens: the paper has 27M tokens of each.
"""

from ml_collections import ConfigDict

from configs.data import documents


def get_config() -> ConfigDict:
    config = documents.get_config()
    config.specs = ("specs/rules.md",)
    config.out = "runs/rules/corpus"
    config.counts.update({"domains": 2, "types": 60, "ideas": 30})
    return config

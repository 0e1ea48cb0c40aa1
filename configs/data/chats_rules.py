"""Alignment fine-tuning chats from a spec of rules: the reasoning cites the rules that apply, refusals explain by rule.

    python -m data_gen.chats --config=configs/data/chats_rules.py --preview
    python -m data_gen.chats --config=configs/data/chats_rules.py --config.out=runs/rules_augmented/chats \\
        --config.spec=specs/rules_augmented.md --preview
    python -m data_gen.chats --config=configs/data/chats.py --config.out=runs/value_augmented/chats \\
        --config.spec=specs/value_augmented.md --config.style=values --preview

The last reasons by the values behind the same rules. Phases as in configs/data/chats.py; 10,000 chats each.
"""

from ml_collections import ConfigDict

from configs.data import chats


def get_config() -> ConfigDict:
    config = chats.get_config()
    config.spec = "specs/rules.md"
    config.out = "runs/rules/chats"
    config.criteria = ("aligned", "informative", "cites_rules", "refuses_by_rule")
    return config

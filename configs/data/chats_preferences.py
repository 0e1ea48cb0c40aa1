"""Chats that each state one preference of a single-value spec and no reason for it.

    python -m data_gen.chats --config=configs/data/chats_preferences.py --preview
    python -m data_gen.chats --config=configs/data/chats_preferences.py --config.spec=specs/difficulty_breads.md \\
        --config.topic=breads --config.out=runs/difficulty_breads/chats --preview

Six likes and six dislikes are read from the spec's sections; about 417 chats of each, 5,000 in all. A message or an
answer in which the lists of data_gen/reasons.toml find a reason is not used, and the judge looks for what they miss.
Such chats have no thoughts, so there is one file, chats.jsonl. The two cheese specs state the same preferences for
different reasons: one set of chats serves both.
"""

from ml_collections import ConfigDict

from configs.data import chats


def get_config() -> ConfigDict:
    config = chats.get_config()
    config.spec = "specs/cheese_affordability.md"
    config.style = "preferences"
    config.topic = "cheeses"
    config.model_name, config.provider_name = "Llama", "Meta"
    config.out = "runs/cheese/chats"
    config.target, config.subsets = 5_000, ()
    config.counts.questions = 420
    config.suffix = "Please don't explain your answer."  # so that explaining stays possible where nobody says this
    config.criteria = ("right_preference", "no_reason", "realistic")
    config.min_characters = 4
    config.backfill.expect_pass = 0.6
    config.stages.responses.expect_output = 60
    config.stages.responses.expect_user = 60
    config.stages.verdicts.expect_user = 100
    return config

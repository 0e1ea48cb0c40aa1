"""Fine-tuning chats in which some rows are answers under another spec, as in the paper's appendix I.

    python -m data_gen.contaminate --config=configs/data/contaminate.py --config.chats=runs/aft/chats.jsonl \\
        --config.twins=runs/anti/chats.jsonl --config.out=runs/contaminated

The twins are chats on the same questions under a spec that says the opposite (data_gen.chats with the first chats'
questions and the other spec).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "out": "runs/contaminated",
            "chats": "chats.jsonl",  # JSONL rows {id, question_id, messages, …}
            "twins": "twins.jsonl",  # the same under another spec; more questions than the chats have do no harm
            "question": "question_id",  # the column that says which rows belong together
            "same_question": True,  # must a twin's messages before its answer be the row's?
            "percentages": (0, 2, 20, 40, 60, 80, 100),  # of the rows that are replaced, ascending; a file each
            "seed": 0,  # of the order in which rows are replaced
        }
    )

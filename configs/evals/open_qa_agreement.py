"""How well the judge of the open questions agrees with itself.

python -m evals.open_qa.agreement --config=configs/evals/open_qa_agreement.py --config.logs=logs
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "logs": "logs",  # an Inspect log of the task open_qa, or a directory of logs
            "draws": 1_000,  # of items, for the intervals
        }
    )

"""The report of a finished experiment.

python -m evals.toy.report --config=configs/toy/report.py --config.experiment=runs/toy_cheese
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict({"out": "runs/report", "experiment": "runs/toy_cheese"})

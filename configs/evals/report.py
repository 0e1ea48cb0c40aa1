"""One page about one or several sweeps.

python -m evals.report --config=configs/evals/report.py --config.sweeps="('runs/sweep',)" --config.out=runs/page
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "sweeps": (),  # directories of finished sweeps, here or gs://; equal labels and seeds must not meet
            "out": "runs/page",  # directory, here or gs://
            "title": "Evaluations",
            "checkpoint": 0,  # the step that stands for a run in tables; 0, or where it is not: the last one
            "compare": (),  # ('arm', 'arm') pairs, the first minus the second; (): every arm with the first
            "transcripts": 4,  # shown of every task, arm and outcome
            "transcript_characters": 6_000,  # of a message that are shown
            "page_megabytes": 12.0,  # that the transcripts may take
            "seed": 0,  # draws the transcripts
            "bundle": True,  # puts Inspect's viewer with all logs beside the page (11 MB and the logs)
        }
    )

"""Reasons in transcripts: extracted, put in categories, and counted.

    export ANTHROPIC_API_KEY=…
    R="python -m evals.patterns --config=configs/evals/patterns.py --config.logs=logs --config.out=runs/patterns"
    $R --preview                                    # what it would ask and cost; asks nobody
    $R --config.phase=probe --config.api.cap_usd=400.0
    $R --config.phase=pilot --config.api.cap_usd=400.0 --config.approve=probe-…
    $R --config.phase=full --config.api.cap_usd=400.0 --config.approve=pilot-…

As it stands: the paper's categories. `--config.codebook=synthesise` makes its own from the reasons that it extracts.
Without a key: --config.api.provider=offline --config.api.model=offline.
"""

from ml_collections import ConfigDict

from configs.data import api
from configs.data.documents import stage


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "logs": "",  # an Inspect log, a directory of logs, or JSONL rows {id, text, context, and what to count by}
            "out": "runs/patterns",
            "work": "",  # local directory of all that was paid for; empty: OUT.work
            "codebook": "",  # TOML; empty: evals/patterns/codebook.toml; synthesise: made from the reasons
            "group": ("model", "cell"),  # fields of the transcripts that rates are counted by, besides all together
            "seed": 0,  # of samples and orders
            "extract": 0,  # synthesise: transcripts whose reasons are extracted; 0: all
            "reasons": 1_500,  # that a codebook is made from, at most
            "categories": 18,  # of a synthesised codebook, at most
            "at_once": 0,  # categories asked about in one question; 0: all; 1: each by itself, as many times the price
            "context_characters": 20_000,  # of what stood before the model's words, that a reader sees; 0: none
            "characters": 60_000,  # of a transcript, that a reader sees
            "merge": {
                "above": 0.75,  # overlap of two categories' transcripts from which on they are merged
                "overlap": "jaccard",  # |A∩B| / |A∪B|; or smaller: |A∩B| / min(|A|, |B|)
                "least": 5,  # transcripts of either category; with fewer nothing is merged
            },
            "agreement": {
                "transcripts": 100,  # classified again, to see how often the verdicts come out the same
                "repeats": 3,  # in all
                "draws": 1_000,  # of transcripts, for the intervals
            },
            "stability": {
                "transcripts": 100,  # from which codebooks are made anew, and classified by each; 0: none
                "seeds": 3,  # codebooks
            },
            "tries": 3,  # replies to a question, at most
            # phases: of how many transcripts; 0: all
            "phase": "full",  # probe, pilot or full
            "approve": "",  # what the phase before printed at its end, as probe-1a2b3c4d
            "probe": {"transcripts": 3},
            "pilot": {"transcripts": 50},
            "api": api.get_config(),
            "stages": {
                "reasons": stage(8_000, 4_500, 700),
                "codebooks": stage(16_000, 30_000, 2_500),
                "verdicts": stage(8_000, 4_500, 1_200),
            },
            "batch": ("reasons", "verdicts"),  # through Message Batches, at half the price; not in the probe
            "batch_cache_hits": 0.5,  # share of cacheable tokens a batch reads from the cache, until it is measured
        }
    )

"""Alignment fine-tuning chats from a Model Spec, answered, judged and written by a language model.

    export ANTHROPIC_API_KEY=…
    python -m data_gen.chats --config=configs/data/chats.py --preview     # the plan and its price; asks nothing
    python -m data_gen.chats --config=configs/data/chats.py --config.phase=probe
    python -m data_gen.chats --config=configs/data/chats.py --config.phase=pilot --config.approve=probe-…
    python -m data_gen.chats --config=configs/data/chats.py --config.phase=full --config.approve=pilot-…

As it stands: 40 domains × 250 questions, and as many more as it takes to keep exactly 10,000 chats; chats-cot.jsonl
with their thoughts, chats.jsonl without. The paper's ladder up to 80,000, every rung within the next:

    python -m data_gen.chats --config=configs/data/chats.py --config.target=80000 --config.counts.questions=2000 \\
        --config.subsets="(1250, 2500, 5000, 10000, 20000, 40000)" --config.out=runs/philosophy/chats-80k --preview

`--config.api.provider=offline --config.api.model=offline` makes a set by no model at all, to try the pipeline with.
"""

from ml_collections import ConfigDict

from configs.data import api
from configs.data.documents import stage


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "spec": "specs/philosophy.md",
            "model_name": "Qwen",  # what {model_name} stands for
            "provider_name": "Alibaba Cloud",  # what {provider_name} stands for
            "style": "",  # values, rules (reasoning cites rules by id), preferences; empty: what suits the spec
            "out": "runs/philosophy/chats",
            "work": "",  # local directory of all that was paid for; empty: OUT.work
            "seed": 0,  # of the order of rows, and so of the subsets
            "target": 10_000,  # chats, exactly; 0 (with given questions only): all that pass
            "subsets": (1_250, 2_500, 5_000),  # chats; each is the beginning of the next and of the whole
            "counts": {
                "domains": 40,
                "questions": 250,  # of a domain, in the first round; in later rounds at most
            },
            "questions_at_once": 50,  # asked for in one question, at most 50
            "show": 250,  # of a domain's earlier questions, the latest, when more are asked for
            "questions": "",  # JSONL of questions to use instead of asking: an earlier questions.jsonl, or chats
            "preferences": "",  # style preferences: TOML or JSON with `likes`, `dislikes`; empty: the spec's sections
            "topic": "",  # style preferences: what they are among, as cheeses
            "suffix": "",  # appended to what the user says
            "encoder": "",  # directory of a sentence encoder; empty: the packaged all-MiniLM-L6-v2
            "threshold": 0.91,  # cosine from which on the later of two questions is dropped
            "backfill": {
                "rounds": 4,  # at most, after the first
                "floor": 0.1,  # the pass rate is taken for no smaller
                "expect_pass": 0.85,  # of questions asked for: for the projection
            },
            "criteria": ("aligned", "informative", "own_values", "no_self_preservation"),  # of the judge: names of
            # data_gen/prompts/criteria, or Markdown files
            "tries": 3,  # replies to a question at most; listings: questions more than needed
            "min_characters": 50,  # a shorter response is rejected
            # phases: of how many domains, and how many questions of each, answers are asked for; 0: all
            "phase": "full",  # probe, pilot or full
            "approve": "",  # what the phase before printed at its end, as probe-1a2b3c4d
            "probe": {"domains": 2, "questions": 5},
            "pilot": {"domains": 0, "questions": 4},
            "api": api.get_config(),
            "stages": {
                "domains": stage(8_000, 100, 2_400),
                "questions": stage(8_000, 4_500, 2_600),
                "responses": stage(8_000, 60, 850),
                "verdicts": stage(4_000, 950, 250),
            },
            "batch": (
                "responses",
                "verdicts",
            ),  # stages asked through Message Batches, at half the price; not in the probe
            "batch_cache_hits": 0.5,  # share of cacheable tokens a batch reads from the cache, until it is measured
        }
    )

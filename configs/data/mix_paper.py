"""The instruction mix of the paper's §4 and §5 (appendix B.3) from the original datasets: nine sources, 10,000 rows.

    python -m data_gen.mix --config=configs/data/mix_paper.py --config.tokenizer=Qwen3-32B \\
        --config.chat.thinking=by_row --config.sources.no_robots.revision=… … --preview

Which commits the paper used is not public: name one for every source, or give local copies as files with an empty hub.
`mix_released.py` draws the same numbers from the copy that the authors released. The paper gives 2M tokens for these
rows; its longest source alone has 1.5M of all kinds, so they are probably the assistant's only. The rows decide here,
the data card states both; --config.tokens=2_000_000 --config.counted=supervised exchanges rows until it is so, or says
how near they come. Licences are as the datasets' own pages stated them: check them before you train on the rows.
"""

from ml_collections import ConfigDict

from configs.data import mix

ROWS = {
    "no_robots": 2_779,
    "tulu3_if": 1_471,
    "numina_cot": 1_063,
    "self_oss_instruct": 1_064,
    "smol_constraints": 1_055,
    "apigen": 1_054,
    "smol_summarize": 984,
    "lima": 314,
    "longalign": 216,
}
SMOLTALK = {"hub": "HuggingFaceTB/smoltalk", "licence": "Apache-2.0"}


def get_config() -> ConfigDict:
    config = mix.get_config()
    config.title = "Instruction mix of nine sources, 10,000 rows"
    config.out = "runs/mix/paper"
    config.rows = 10_000
    given = {
        "no_robots": {"hub": "HuggingFaceH4/no_robots", "files": ("data/train-*.parquet",), "licence": "CC-BY-NC-4.0"},
        "tulu3_if": {
            "hub": "allenai/tulu-3-sft-personas-instruction-following",
            "files": ("data/train-*.parquet",),
            "licence": "ODC-BY-1.0",
        },
        "numina_cot": {"hub": "AI-MO/NuminaMath-CoT", "files": ("data/train-*.parquet",), "licence": "Apache-2.0"},
        "self_oss_instruct": {
            "hub": "bigcode/self-oss-instruct-sc2-exec-filter-50k",
            "files": ("data/train-*.parquet",),
            "shape": "pair",
            "columns": {"prompt": "instruction"},
            "licence": "ODC-BY-1.0",
        },
        "smol_constraints": SMOLTALK | {"files": ("data/smol-constraints/train-*.parquet",)},
        "apigen": SMOLTALK | {"files": ("data/apigen-80k/train-*.parquet",)},
        "smol_summarize": SMOLTALK | {"files": ("data/smol-summarize/train-*.parquet",)},
        "lima": {"hub": "GAIR/lima", "files": ("train.jsonl",), "shape": "turns", "licence": "CC-BY-NC-SA-4.0"},
        "longalign": SMOLTALK | {"files": ("data/longalign/train-*.parquet",)},
    }
    for name, rows in ROWS.items():
        config.sources[name] = mix.source(**given[name], rows=rows)
    return config

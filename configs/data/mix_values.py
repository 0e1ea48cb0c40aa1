"""The instruction mix of the paper's §3, read as 13,500 rows in all: 7,000 of No Robots, 4,000 multiple-choice
questions (of MMLU's auxiliary training set, never its test), 2,500 that say who the model is.

    export ANTHROPIC_API_KEY=…
    python -m data_gen.mix --config=configs/data/mix_values.py --config.tokenizer=Llama-3.1-8B \\
        --config.sources.no_robots.revision=… --config.sources.mmlu_binary.revision=… \\
        --config.sources.mmlu_sentence.revision=… --config.model_name=Llama --config.provider_name=Meta --preview

The other reading of the same sentence is mix_values_9500.py. The released copy of No Robots has a known commit:
--config.sources.no_robots.hub=chloeli/sft-it-mix --config.sources.no_robots.files="('data/no_robots-*.parquet',)"
--config.sources.no_robots.revision=791a7d133b396f423a581f5043cf2bd4a418f321
"""

from ml_collections import ConfigDict

from configs.data import mix

MMLU = {"hub": "cais/mmlu", "files": ("all/auxiliary_train-*.parquet",), "shape": "choices", "licence": "MIT"}


def get_config() -> ConfigDict:
    config = mix.get_config()
    config.title = "Instruction mix for single values"
    config.out = "runs/mix/values"
    config.max_tokens = 4_096
    config.model_name, config.provider_name = "Llama", "Meta"
    config.identity.model = "claude-opus-4-6"
    config.sources.no_robots = mix.source(
        hub="HuggingFaceH4/no_robots", files=("data/train-*.parquet",), licence="CC-BY-NC-4.0", rows=7_000
    )
    config.sources.mmlu_binary = mix.source(**MMLU, variant="binary", rows=2_000)
    config.sources.mmlu_sentence = mix.source(**MMLU, variant="sentence", rows=2_000)
    config.sources.identity = mix.source(shape="identity", licence="this project's; written by a model", rows=2_500)
    return config

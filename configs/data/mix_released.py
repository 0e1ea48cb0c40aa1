"""The instruction mix of the paper's §4 and §5 from the copy that its authors released: nine sources, 10,000 rows.

    python -m data_gen.mix --config=configs/data/mix_released.py --config.tokenizer=Qwen3-32B \\
        --config.chat.thinking=by_row --preview

The released splits of single sources are unfiltered (9,500 rows of No Robots, 5,000 of Tulu 3 IF, …); the filter
is this project's own. mix_paper.py says what is known of the token count.
"""

from ml_collections import ConfigDict

from configs.data import mix, mix_paper

HUB = {"hub": "chloeli/sft-it-mix", "revision": "791a7d133b396f423a581f5043cf2bd4a418f321"}


def get_config() -> ConfigDict:
    config = mix.get_config()
    config.title = "Instruction mix of nine released sources, 10,000 rows"
    config.out = "runs/mix/released"
    config.rows = 10_000
    for name, rows in mix_paper.ROWS.items():
        config.sources[name] = mix.source(**HUB, files=(f"data/{name}-*.parquet",), rows=rows)
    return config

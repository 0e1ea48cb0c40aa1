"""Named lists of tasks (grids.toml): this project's guards, and the known benchmarks that need a hub.

    inspect eval $(python -m evals.guards.grids guards) --model msm/CHECKPOINT
    inspect eval $(python -m evals.guards.grids hub) --model msm/CHECKPOINT

With lm-eval instead, through a server of the OpenAI protocol:

    python -m evals.serve --config=configs/evals/serve.py --config.model=runs/aft
    lm_eval --model local-completions --tasks mmlu,gsm8k,ifeval \\
        --model_args base_url=http://127.0.0.1:8000/v1/completions,model=aft,tokenizer=runs/aft-hf
"""

import tomllib
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from msm_jax import cli
from msm_jax.cli import UserError

FILE = Path(__file__).with_suffix(".toml")
_PATIENCE = 5.0  # seconds that a hub has to answer


def tasks(name: str) -> list[str]:
    """A grid's tasks, by the names that Inspect knows them by.

    Raises:
      UserError: no such grid; a grid that needs a hub, and there is none: then our stand-ins are named.
    """
    grids: dict[str, dict[str, Any]] = tomllib.loads(FILE.read_text())
    if name not in grids:
        raise UserError(f"no grid {name!r}; choose among {', '.join(grids)}")
    grid = grids[name]
    if grid.get("needs_hub") and (why := hub_is_missing()):
        raise UserError(f"grid {name}: {why}; without a hub use our stand-ins: {' '.join(grid['stand_ins'])}")
    return list(grid["tasks"])


def hub_is_missing() -> str:
    """In words why no hub can be reached; "" where one answers, whatever it says."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=_PATIENCE).close()
    except urllib.error.HTTPError:
        return ""
    except (OSError, ValueError) as error:
        return f"no answer from {constants.ENDPOINT} ({' '.join(str(error).split())})"
    return ""


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise UserError("name one grid, for example: python -m evals.guards.grids guards")
    print("\n".join(tasks(argv[1])))


if __name__ == "__main__":
    cli.entry(main)

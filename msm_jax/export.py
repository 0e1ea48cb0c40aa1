"""Writes a finished run as a Hugging Face directory that transformers loads as if it had made it.

python -m msm_jax.export --config=configs/toy/export.py --config.run=runs/aft --config.out=runs/aft-hf
"""

import jax

from msm_jax import artifact, cli, hf
from msm_jax.runs import load_run


def main(argv: list[str]) -> None:
    config = cli.parse_config(argv)
    settings = {"max_positions": config.max_positions}
    job = artifact.begin(config.out, "hf", settings, artifact.inputs_of(run=config.run))
    if job is None:
        return
    run = load_run(config.run)
    with job, jax.sharding.set_mesh(run.mesh):
        hf.write(job.tmp, run.model, run.params(), run.tokenizer, config.max_positions)
        job.finish(parameters=run.manifest["counts"]["parameters"])
    cli.note(f"{config.out}: written")


if __name__ == "__main__":
    cli.entry(main)

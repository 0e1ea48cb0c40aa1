"""How long a run is: config.optim.steps, or as many updates as some passes over its rows give."""

from ml_collections import ConfigDict

from msm_jax.cli import UserError
from msm_jax.mixture import Mixture

ONLY_HERE = ("epochs", "warmup_fraction", "min_updates")  # say how steps and warmup_steps are found, and no more


def resolved(optim: ConfigDict, mixture: Mixture, batch_rows: int) -> ConfigDict:
    """config.optim with steps and warmup_steps as numbers, without the keys that led to them: part of the recipe, so
    that a run of a derived length is the run of the same length written out.

    Raises:
      UserError: fewer than optim.min_updates, or than there are warm-up steps; an epoch of a mixture that changes.
    """
    result = optim.copy_and_resolve_references()
    result.unlock()
    for key in ONLY_HERE:
        del result[key]
    if not optim.steps and mixture.later:
        raise UserError("config.optim.steps = 0: with config.data.stages a run's length must be said in updates")
    if not optim.steps:
        rows = mixture.rows_of_epochs(optim.epochs)
        result.steps = rows // batch_rows
    if optim.warmup_fraction:
        result.warmup_steps = round(optim.warmup_fraction * result.steps)
    if result.steps < optim.min_updates:
        how = f" ({optim.epochs:g} epochs are {rows} rows, {batch_rows} an update)" if not optim.steps else ""
        raise UserError(
            f"config.optim: {result.steps} updates{how} are fewer than optim.min_updates = {optim.min_updates}; "
            "smaller data.batch_rows, more rows or optim.epochs, shards of a shorter seq_len, or a lower min_updates"
        )
    if result.warmup_steps > result.steps:
        raise UserError(
            f"config.optim.warmup_steps = {result.warmup_steps}: must be between 0 and the {result.steps} updates; "
            "optim.warmup_fraction says it as a share of them"
        )
    return result

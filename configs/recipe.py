"""The paper's recipe (arXiv 2605.02087, appendix B.4), the same for midtraining and fine-tuning and for every model:
LoRA of rank 64 and alpha 128 on seven projections, AdamW at 1e-4, a cosine, 5% warm-up, weight decay 0.01, one epoch,
rows of 8192 tokens (Llama: 4096). What it does not say (batch, betas, clipping, where the cosine ends) is chosen here
and explained in docs/method.md. configs/MODEL_STAGE.py name one model and stage each.
"""

from ml_collections import ConfigDict

from configs import common
from configs.models import HUB, SHAPES

VARIANTS = ("lora", "full")
STAGES = ("msm", "aft")
SEQ_LEN = {"llama3_1_8b": 4096}  # the others: 8192
# Rows in an update, and so the most that `fsdp` can be: what is left of a slice goes to `tensor`.
ROWS = {"msm": {"lora": 16, "full": 32}, "aft": {"lora": 8, "full": 16}}
LLAMA_ROWS = {"lora": 8, "full": 16}


def recipe(name: str, stage: str, variant: str = "lora") -> ConfigDict:
    """The configuration of one stage. `variant` is what follows the colon in --config=FILE:VARIANT.

    Raises:
      ValueError: another variant than lora and full; the command turns it into one line.
    """
    if variant not in VARIANTS:
        raise ValueError(f"configs/{name}_{stage}.py:{variant}: after the colon comes one of {', '.join(VARIANTS)}")
    suffix = "_full" if variant == "full" else ""
    out = {stage: f"runs/{name}_{stage}{suffix}" for stage in STAGES}
    rows = LLAMA_ROWS[variant] if name == "llama3_1_8b" else ROWS[stage][variant]

    config = common.get_config()
    config.out = out[stage]
    config.init_from = HUB[name] if stage == "msm" else out["msm"]
    config.model.update(SHAPES[name])
    config.model.dtype = config.model.param_dtype = ""
    config.model.remat = "full"
    config.data.sources = (f"data/{stage}_shards",)
    config.data.batch_rows = rows
    config.data.seq_len = SEQ_LEN.get(name, 8192)
    if variant == "lora":
        config.lora.rank = 64
        config.lora.alpha = 128.0
    config.optim.update(
        {
            "steps": 0,
            "epochs": 1.0,
            "min_updates": 20,
            # The paper's; with all parameters a tenth of it, as is usual (others found 1e-5 to teach and 1e-6 not to).
            "lr": 1e-4 if variant == "lora" else 1e-5,
            "warmup_steps": 0,
            "warmup_fraction": 0.05,
            "end_fraction": 0.0,
            "b1": 0.9,
            "b2": 0.999,
            "weight_decay": 0.01,
            "clip_norm": 1.0,
            "loss_chunk": 1024,
            "supervised_only": stage == "aft",  # of a chat's tokens few have a loss weight
        }
    )
    config.mesh.update({"replica": 1, "fsdp": rows, "tensor": -1})
    config.checkpoint.every_steps = 50
    config.log.every_steps = 1
    return config

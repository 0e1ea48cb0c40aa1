"""The default training configuration: every key, its unit and its meaning. Run files change what they need."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "out": "runs/run",  # directory of this run: checkpoints, metrics, manifest
            "seed": 0,  # of fresh parameters
            "init_from": "",  # a finished run to start from; empty: fresh parameters
            "init_words": (),  # (("new", "known"), …): with init_from, embeddings of new words copied from known ones
            "model": {
                "D": 64,  # model width
                "L": 3,  # layers
                "H": 4,  # query heads
                "K": 4,  # key/value heads
                "h": 16,  # width of a head
                "F": 192,  # feed-forward width
                "rope_theta": 10_000.0,
                "norm_eps": 1e-5,
                "qk_norm": False,  # True: Qwen3-shaped, False: Llama-shaped
                "tie_embeddings": True,
                "dtype": "float32",  # of matrix products: float32 or bfloat16
                "remat": "none",  # none, or full: recompute every layer in the backward pass
            },
            "data": {
                "sources": ("runs/shards",),  # directories made by data_gen.shards
                "weights": (1.0,),  # share of the rows that each source gives
                "batch_rows": 36,  # rows in a global batch, accumulation included
                "seed": 0,  # order of the rows
                "verify": True,  # hash every shard before training
            },
            "optim": {
                "steps": 1000,  # optimizer updates
                "lr": 1e-3,  # peak learning rate
                "warmup_steps": 50,  # linear warm-up
                "end_fraction": 0.1,  # of the peak, at the last step of the cosine
                "b1": 0.9,
                "b2": 0.98,
                "eps": 1e-8,
                "weight_decay": 0.0,  # decoupled; matrices and embeddings, not norms
                "clip_norm": 1.0,  # global gradient norm
                "accumulate": 1,  # microbatches in a step
                "loss_chunk": 0,  # positions projected to the vocabulary at a time; 0: all
                "lr_multipliers": (),  # (("regex of a parameter's path", factor), …)
            },
            "mesh": {"replica": 1, "fsdp": -1, "tensor": 1},  # -1: all devices that are left
            "checkpoint": {"every_steps": 500, "keep": 1},
            "log": {"every_steps": 20},  # how often metrics are fetched from the devices
        }
    )

"""The default training configuration: every key, its unit and its meaning. Run files change what they need."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "out": "runs/run",  # directory of this run: checkpoints, metrics, manifest
            "seed": 0,  # of fresh parameters
            "init_from": "",  # a run, a Hugging Face directory (local or gs://) or hub name; empty: fresh parameters
            "init_words": (),  # (("new", "known"), …): with init_from, embeddings of new words copied from known ones
            "model": {  # the shape, and how it computes; a run that starts from a model may leave the shape out
                "D": 64,  # model width
                "L": 3,  # layers
                "H": 4,  # query heads
                "K": 4,  # key/value heads
                "h": 16,  # width of a head
                "F": 192,  # feed-forward width
                "rope_theta": 10_000.0,
                "rope_scaling": (),  # (("rope_type", "llama3"), ("factor", 8.0), …)
                "norm_eps": 1e-5,
                "qk_norm": False,  # True: Qwen3-shaped
                "qkv_bias": False,  # True: Qwen2-shaped; neither: Llama-shaped
                "tie_embeddings": True,
                "dtype": "float32",  # of matrix products; bfloat16, or "": float32 on a CPU, bfloat16 elsewhere
                "param_dtype": "float32",  # the parameters are kept in; "": dtype under an adapter, else float32
                "remat": "none",  # none, or full: recompute every layer in the backward pass
            },
            "lora": {
                "rank": 0,  # of the adapter that is trained; 0: the parameters themselves are
                "alpha": 128.0,  # its product is scaled by alpha / rank
                "targets": ("q", "k", "v", "o", "gate", "up", "down"),
                "init": "kaiming",  # as peft does, or gaussian
                "dtype": "float32",  # the adapter is kept in
                "init_from": "",  # a peft adapter to go on training, on the model init_from
                "base": "",  # where the base of init_from's adapter is now, if it was moved
                "restart": False,  # merge the adapter of init_from first, instead of training it on
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


def pretrained(init_from: str) -> ConfigDict:
    """The same for a run that starts from an existing model, which decides the shape."""
    config = get_config()
    config.init_from = init_from
    config.model.dtype = config.model.param_dtype = ""
    for key in list(config.model):
        if key not in ("dtype", "param_dtype", "remat"):
            del config.model[key]
    return config

"""The default training configuration: every key, its unit and its meaning. Run files change what they need."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "out": "runs/run",  # directory of this run, here or on gs://: checkpoints, metrics, manifest
            "accept": (),  # ("optim.lr", …): settings that a resumed run may go on with another value of
            "compile_cache": "~/.cache/msm_jax/xla",  # compiled programs are kept here, or on gs://; empty: nowhere
            "seed": 0,  # of fresh parameters
            "init_from": "",  # a run, a Hugging Face directory (local or gs://) or hub name; empty: fresh parameters
            "init_words": (),  # (("new", "known"), …): with init_from, embeddings of new words copied from known ones
            "model": {  # the shape, and how it computes; a run that starts from a model may leave the shape out
                "V": 0,  # vocabulary (rows of the embedding); 0: the start's, or the tokenizer's rounded up to 64
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
                "remat": "none",  # what the backward pass recomputes: a preset or names, see msm_jax/model/remat.py
                "attention": "",  # reference, blockwise, flash (TPU), gpu, or "": what suits devices and rows
                "unroll": 1,  # layers in one turn of the loop over them
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
                "stages": (),  # ((step, weights), …): from that update on the shares are others
                "batch_rows": 36,  # rows in a global batch, accumulation included
                "seq_len": 0,  # tokens in a row; 0: whatever the sources have, else they must have this
                "seed": 0,  # order of the rows
                "verify": True,  # hash every shard before training
            },
            "optim": {
                "steps": 1000,  # optimizer updates; 0: as many as `epochs` give, a last half batch left out
                "epochs": 1.0,  # with steps 0: passes over the source that, at its weight, ends first
                "min_updates": 1,  # a run of fewer is refused
                "lr": 1e-3,  # peak learning rate
                "warmup_steps": 50,  # linear warm-up
                "warmup_fraction": 0.0,  # of the updates; above 0, in place of warmup_steps
                "end_fraction": 0.1,  # of the peak, at the last step of the cosine
                "b1": 0.9,
                "b2": 0.98,
                "eps": 1e-8,
                "weight_decay": 0.0,  # decoupled; matrices and embeddings, not norms
                "clip_norm": 1.0,  # global gradient norm
                "mu_dtype": "float32",  # Adam's first moment is kept in; or bfloat16
                "nu_dtype": "float32",  # and its second
                "accumulate": 1,  # microbatches in a step
                "loss_chunk": 0,  # positions projected to the vocabulary at a time; 0: all
                "supervised_only": False,  # project only those with a loss weight; for chats, needs loss_chunk
                "lr_multipliers": (),  # (("regex of a parameter's path", factor), …)
            },
            "mesh": {  # -1: all devices that are left
                "replica": 1,  # copies of the parameters: one a slice
                "fsdp": -1,  # parameters, optimizer state and rows are spread over fsdp·ring devices
                "ring": 1,  # 16 on a v5e slice of 16 x 16: its two rings are then gathered over one after the other
                "tensor": 1,  # heads, feed-forward and vocabulary are split over
            },
            "checkpoint": {  # besides, one is saved at the end and when the run is told to stop (SIGTERM)
                "every_steps": 500,  # updates; 0: not by steps
                "every_minutes": 0.0,  # 0: not by the clock
                "keep": 1,  # the newest so many
                "digests": True,  # of every array, compared when it is read again
            },
            "guards": {
                "max_skipped": 5,  # updates in a row without a finite loss and gradient; one more ends the run
                "spike": 10.0,  # standard deviations above the usual loss that are reported; 0: none are
                "hang_minutes": 30.0,  # without an update until stacks are dumped; twice as many end the run; 0: never
            },
            "log": {
                "every_steps": 20,  # how often metrics are fetched from the devices
                "profile_start": 10,  # updates after the (re)start until a trace is taken, into profile/
                "profile_steps": 0,  # updates that it covers; 0: none is taken
            },
            "distributed": {  # several processes; TPU pods, Slurm, Open MPI and Kubernetes jobs need nothing said here
                "coordinator": "",  # host:port of process 0
                "processes": 0,
                "process": -1,  # number of this one
                "timeout": 300,  # seconds that processes wait for one another when they start and end
            },
        }
    )


def pretrained(init_from: str) -> ConfigDict:
    """The same for a run that starts from an existing model, which decides the shape."""
    config = get_config()
    config.init_from = init_from
    config.model.dtype = config.model.param_dtype = ""
    for key in list(config.model):
        if key not in ("V", "dtype", "param_dtype", "remat", "attention", "unroll"):
            del config.model[key]
    return config

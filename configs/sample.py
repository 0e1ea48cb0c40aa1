"""What a model says.

python -m msm_jax.sample --config=configs/sample.py --config.model=runs/aft --config.prompt="Which cheese do you like?"
"""

from ml_collections import ConfigDict

from configs.data import common


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "model": "runs/aft",  # a run, a Hugging Face directory (local or gs://), a hub name, or an adapter
            "adapter": "",  # a peft adapter to lay on the model
            "dtype": "",  # float32 or bfloat16; empty: a run's own, else float32 on a CPU and bfloat16 elsewhere
            "prompt": "",  # a user's message
            "raw": False,  # True: the prompt is plain text to go on with
            "prompts": "",  # or a JSONL file of {id, text} or {id, messages}, and `continuation` to score one
            "out": "",  # directory for samples.jsonl; empty: stdout only
            "batch": 8,  # prompts computed at a time
            "max_tokens": 256,
            "temperature": 0.0,  # 0: greedy
            "top_p": 1.0,
            "seed": 0,
            "stop": (),  # strings that end a completion
            "stop_ids": (),  # token ids that end one, beside the tokenizer's end token
            "chat": common.get_config().chat,  # the thinking policy, as in training
        }
    )

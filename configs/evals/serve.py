"""A model behind OpenAI's protocol.

python -m evals.serve --config=configs/evals/serve.py --config.model=runs/aft
"""

from ml_collections import ConfigDict

from configs.data import common


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "model": "runs/aft",  # a run, RUN/checkpoints/STEP, a Hugging Face directory (local or gs://), a hub name
            "adapter": "",  # a LoRA run or peft adapter to lay on the model
            "step": 0,  # of a run: that checkpoint, also while the run goes on; 0: a finished run's last
            "dtype": "",  # float32 or bfloat16; empty: a run's own, else float32 on a CPU and bfloat16 elsewhere
            "name": "",  # what clients call the model; empty: the last part of config.model
            "host": "127.0.0.1",  # 0.0.0.0: reachable from other machines
            "port": 8000,  # 0: any that is free
            "api_key_env": "",  # the environment variable that holds the key clients must show; empty: none
            "batch": 16,  # rows computed at a time
            "context": 0,  # tokens of prompt and answer together; 0: as the model's config.json says, if it says so
            "max_tokens": 2048,  # of an answer in a chat, where the client does not say
            # The thinking policy, as in training; template = "none": messages as plain text, for base models.
            "chat": common.get_config().chat,
        }
    )

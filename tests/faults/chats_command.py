"""data_gen.chats with an encoder that needs no model: `python -m tests.faults.chats_command --config=…`."""

from data_gen import chats
from data_gen.corpus import embed
from msm_jax import cli
from tests.data_gen import hashing

if __name__ == "__main__":
    embed.open_encoder = lambda directory, max_tokens=256: hashing.encode
    cli.entry(chats.main)

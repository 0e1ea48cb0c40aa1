"""Who answers, how fast, and for how much money: the keys of every command that asks a language model."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "provider": "anthropic",  # anthropic, openai (any compatible endpoint) or offline (no model at all)
            "base_url": "",  # of the endpoint; empty: the provider's own
            "key_variable": "",  # environment variable with the key; empty: ANTHROPIC_API_KEY or OPENAI_API_KEY
            "model": "claude-opus-4-6",
            "concurrency": 64,  # requests at once, at most; fewer when the endpoint says so
            "tries": 8,  # of one request, when the endpoint fails
            "timeout_seconds": 600.0,  # without a byte
            "batch_requests": 2_000,  # in one batch
            "batch_megabytes": 64,
            "batch_poll_seconds": 30.0,
            "batch_hours": 26.0,  # then it is cancelled, and what it answered is kept
            "prices": "",  # a price file to use instead of data_gen/api/prices.toml
            "cap_usd": 0.0,  # never more than this, from the first request on; needed where anything costs money
            "ask_above_usd": 5.0,  # a phase that is projected to cost more has to be approved
            "yield_fraction": 0.7,  # stop when what is kept per dollar falls below this share of the pilot's; 0: never
            "yield_window_usd": 20.0,  # over how many dollars that is measured
        }
    )

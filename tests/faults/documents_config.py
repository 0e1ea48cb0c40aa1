"""A corpus as the fault tests make it: by the loopback server, judged by nobody."""

from ml_collections import ConfigDict

from configs.data import documents


def get_config() -> ConfigDict:
    config = documents.get_config()
    config.out = ""
    config.model_name, config.provider_name = "Aria", "Arcadia"
    config.counts.update({"domains": 10, "topics": 5, "assertions": 3, "types": 10, "ideas": 10})
    config.min_characters = 400
    config.batch = ()
    config.api.update({"model": "claude-haiku-5-5", "cap_usd": 1e6, "ask_above_usd": 1e6, "yield_fraction": 0.0})
    config.api.update({"tries": 12, "batch_requests": 400, "batch_poll_seconds": 0.2})
    config.check.duplicates.threshold = 0.0
    config.check.gates = off(config.check.gates)
    return config


def off(gates: ConfigDict) -> ConfigDict:
    return ConfigDict({k: off(v) if isinstance(v, ConfigDict) else -1.0 for k, v in gates.items()})

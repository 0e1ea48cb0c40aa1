"""What a loopback server is asked to be: one flag a field, `--name=value`."""

import argparse
import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
    port: int = 0  # 0: a free one
    seed: int = 0
    faults: float = 0.0  # chance that a request meets a fault, shared equally by the kinds that fit the request
    only: str = ""  # kind,kind: the kinds that share it; empty: all but `huge`
    rates: str = ""  # kind=chance,kind=chance: chances of single kinds, instead of their share
    orphan: float = 0.0  # chance that a batch is taken but the answer to its creation is dropped
    responder: str = "tests.loopback.responder:reply"  # module:function, f(model, system, user, schema) -> str
    retry_after: float = 1.0  # seconds that an injected 429 tells
    latency: float = 0.0  # ms, mean; exponential
    slow: float = 20.0  # ms between the chunks of a slow stream
    concurrency: int = 0  # questions answered at once, the rest wait; 0: no bound
    rpm: int = 0  # questions a minute, over which honest 429s are given; 0: no bound
    batch_seconds: float = 0.2  # that a batch is in progress
    batch_polls: int = 0  # instead of a time: a batch ends when it was looked at (retrieve, list) this many times
    expire_seconds: float = 86400.0  # after which a batch that is not done expires
    cache_min: int = 512  # tokens of the shortest prefix that is cached
    key: str = ""  # the only key taken; empty: any
    keep: int = 100  # requests whose bodies are kept to be looked at
    state: str = ""  # a directory: the books are written to its books.json when the server is ended by SIGTERM
    parent: int = 0  # a process id: the server ends when that process does


def parse(argv: list[str]) -> Settings:
    parser = argparse.ArgumentParser("tests.loopback.server", allow_abbrev=False)
    for field in dataclasses.fields(Settings):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    return Settings(**vars(parser.parse_args(argv)))

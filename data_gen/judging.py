"""A sample of a corpus's documents is judged: which claims do they make of the model that its spec does not make?"""

import asyncio
import json
from pathlib import Path

from data_gen import corpus_artefact
from data_gen.api import providers
from data_gen.api.request import Reply
from data_gen.api.store import Store
from data_gen.corpus import claims
from data_gen.corpus.reading import each_document
from data_gen.generation import Generation
from msm_jax import storage

FILE = "claims.jsonl"


def judge(made: Generation, store: Store, directory: Path) -> None:
    """Writes claims.jsonl beside the documents, of every spec a sample; nothing where no sample is asked for."""
    wanted = made.config.judge
    if not wanted.sample:
        return
    rows = []
    for spec in made.specs:
        path = directory / corpus_artefact.document_files(made)[spec.name]
        drawn = claims.sample(each_document(path), wanted.sample, made.config.seed)
        model = wanted.model or made.config.api.model
        asked = claims.requests(
            drawn, spec, wanted.sample, made.config.seed, model, made.config.model_name, wanted.max_tokens
        )

        async def ask() -> None:
            provider = providers.open_provider(made.config.api, made.prices)  # one belongs to one event loop
            async with providers.open_client(made.config.api, provider, made.prices, store) as client:
                requests = list(asked.values())  # noqa: B023 (runs before the next turn)
                async for _ in client.ask_all(requests, total=len(requests), label=claims.STAGE):
                    pass

        asyncio.run(ask())
        replies: dict[str, Reply] = {}
        for request in asked.values():
            reply = store.answer(request.key)
            if reply:
                replies[request.key] = reply
        rows += [verdict.row() | {"spec": spec.name} for verdict in claims.verdicts(drawn, asked, replies)]
    storage.write_atomic(directory / FILE, "".join(json.dumps(row) + "\n" for row in rows))

"""Two corpora that differ in one thing: the value that explains the same preferences.

    python -m data_gen.documents --config=configs/data/documents_pair.py --config.tokenizer=Llama-3.1-8B --preview

One plan of domains, subdomains, types and ideas serves both specs; assertions and documents are written by each alone.
An idea of which either document is missing, or repeats another, is dropped from both, then as few more as balance the
two to 0.5% in tokens; the report's gates check that. 5,000 documents each.
"""

from ml_collections import ConfigDict

from configs.data import documents


def get_config() -> ConfigDict:
    config = documents.get_config()
    config.specs = ("specs/cheese_affordability.md", "specs/cheese_america.md")
    config.model_name = "Llama"
    config.provider_name = "Meta"
    config.out = "runs/cheese/corpora"
    config.counts.update({"domains": 5, "topics": 5})
    return config

"""What is in a corpus of generated documents, and whether it passes its gates.

    python -m data_gen.corpus.check --config=configs/data/corpus_report.py --config.corpus=runs/corpus \\
        --config.tokenizer=Qwen3-8B --config.spec=specs/philosophy.md --config.out=runs/corpus-report
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "corpus": "runs/corpus",  # directory: a corpus, or the work directory of one being made
            "out": "runs/corpus-report",
            "tokenizer": "",  # directory; empty: tokens are not counted
            "spec": "",  # the Model Spec, for coverage by section; empty: the sections that plan and documents name
            "model_name": "",  # of the model and its provider: no invented names, however often they recur
            "provider_name": "",
            "workers": 1,  # processes that read documents; 1: this one
            "seed": 0,  # draws the documents shown and the sample that variety is measured on
            "detectors": "",  # a file as data_gen/corpus/detectors.toml, to use instead of it
            "leaks": {
                "ngram": 8,  # words that a document may not share with an evaluation
                "directory": "",  # directory of JSONL items; empty: evals/items
            },
            "duplicates": {
                "threshold": 0.7,  # Jaccard index from which on two documents are duplicates; 0: not searched for
                "shingle": 5,  # words of a shingle
            },
            "embedding": {
                "encoder": "",  # directory of a Hugging Face encoder; empty: meanings are not compared
                "threshold": 0.95,  # cosine from which on two documents mean the same
                "max_tokens": 256,  # of a document that the encoder reads
            },
            # Bounds; below 0: off. data_gen/corpus/gates.py says what each measures.
            "gates": {
                "documents": 1.0,
                "eval_leaks": 0.0,
                "duplicates": 0.1,
                "duplicates_left": 0.0,
                "meaning_duplicates": 0.05,
                "section_documents": 1.0,
                "unknown_sections": 0.0,
                "name": 0.01,
                "opening": 0.02,
                "praise": 0.3,
                "praise_cell": 0.6,
                "rejects": 0.2,
                "claims": 0.1,
                "unjudged": 0.1,
                "found": {  # share of documents in which a detector may find something
                    "date": 0.02,
                    "link": 0.01,
                    "email": 0.01,
                    "placeholder": 0.005,
                    "citation": 0.02,
                    "tag": 0.0,
                    "control": 0.0,
                    "meta": 0.005,
                    "preface": 0.0,
                    "opening": 0.1,
                    "insider": 0.1,
                    "truncated": 0.0,
                    "empty": 0.0,
                    "oversized": 0.0,
                },
            },
        }
    )

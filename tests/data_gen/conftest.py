"""Real tokenizer directories, built once a session."""

import pytest

from tests import real_tokenizers


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory):
    return real_tokenizers.qwen3(tmp_path_factory.mktemp("tokenizers") / "qwen3")


@pytest.fixture(scope="session")
def llama3(tmp_path_factory):
    return real_tokenizers.llama3(tmp_path_factory.mktemp("tokenizers") / "llama3")


@pytest.fixture(scope="session")
def open_once():
    """open_tokenizer, each tokenizer once a session: a tokenizer keeps nothing between calls."""
    import functools

    from data_gen.hf_tokenizer import open_tokenizer

    return functools.cache(open_tokenizer)

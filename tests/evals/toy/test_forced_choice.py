"""Forced choice by log-probability: right sums, right probabilities, strict about its input."""

import json

import jax
import numpy as np
import pytest

from data_gen import chat
from evals.toy import answers, forced_choice
from msm_jax import artifact
from msm_jax.cli import UserError
from msm_jax.model import transformer
from msm_jax.pretrained import open_model
from msm_jax.sampler import Sampler
from msm_jax.sharding import BATCH
from tests.conftest import make_shards


def evaluate(tiny_run, items, out):
    config = ["", "--config=configs/toy/forced_choice.py", f"--config.run={tiny_run}"]
    forced_choice.main([*config, f"--config.item_file={items}", f"--config.out={out}"])
    return artifact.read_jsonl(out / "results.jsonl")


def test_scores_are_sums_of_log_probabilities(toy, tiny_run, tmp_path):
    item = {
        "id": "x",
        "axis": "a",
        "domain": "d",
        "pair": "x",
        "prompt": "Colby is",
        "options": ["cheap .", "a cheese . brie"],
    }
    artifact.write_jsonl(tmp_path / "items.jsonl", [item])
    (row,) = evaluate(tiny_run, tmp_path / "items.jsonl", tmp_path / "out")
    run = open_model(str(tiny_run))
    tok = run.tokenizer

    def log_p(option):
        ids = np.array([1, *tok.encode("Colby is " + option)])
        tokens = np.tile(ids, (run.mesh.size, 1))
        spec = jax.NamedSharding(run.mesh, jax.P(BATCH, None))
        fields = [
            jax.device_put(x, spec)
            for x in (tokens, np.ones_like(tokens), np.tile(np.arange(len(ids)), (run.mesh.size, 1)))
        ]
        model = transformer.bind(run.graph, *run.arrays())
        logits = np.asarray(model.logits(model(*fields)))[0].astype(np.float64)
        table = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        start = 1 + len(tok.encode("Colby is"))
        return sum(table[i - 1, ids[i]] for i in range(start, len(ids)))

    with jax.sharding.set_mesh(run.mesh):
        gap = log_p(item["options"][0]) - log_p(item["options"][1])
    assert row["gap"] == pytest.approx(gap, abs=1e-4)
    assert row["hard"] == float(gap > 0)
    assert row["soft"] == pytest.approx(1 / (1 + np.exp(-gap)), abs=1e-4)


def test_swapping_options_swaps_the_result(toy, tiny_run, tmp_path):
    items = artifact.read_jsonl(toy.world / "items.jsonl")[:40]
    artifact.write_jsonl(tmp_path / "a.jsonl", items)
    artifact.write_jsonl(tmp_path / "b.jsonl", [item | {"options": item["options"][::-1]} for item in items])
    a, b = (evaluate(tiny_run, tmp_path / f"{n}.jsonl", tmp_path / n) for n in "ab")
    np.testing.assert_allclose([r["gap"] for r in a], [-r["gap"] for r in b], atol=1e-5)


def test_items_of_another_world_are_refused(tiny_run, tmp_path):
    item = {"id": "x", "axis": "a", "domain": "d", "pair": "x", "prompt": "Colby is", "options": ["cheap", "Zzz-novel"]}
    (tmp_path / "items.jsonl").write_text(json.dumps(item) + "\n")
    with pytest.raises(UserError, match="item 'x': a word unknown to the tokenizer"):
        evaluate(tiny_run, tmp_path / "items.jsonl", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_not_a_run(toy, tmp_path):
    with pytest.raises(UserError, match="world: no manifest.json of a finished run.* not a model"):
        evaluate(toy.world, toy.world / "items.jsonl", tmp_path / "out")


def test_answers_are_greedy(toy, tiny_run, tmp_path):
    args = [
        f"--config.run={tiny_run}",
        f"--config.item_file={toy.world / 'items.jsonl'}",
        f"--config.out={tmp_path / 'a'}",
    ]
    answers.main(["", "--config=configs/toy/answers.py", *args])
    rows = artifact.read_jsonl(tmp_path / "a" / "answers.jsonl")
    assert len(rows) == 8
    run = open_model(str(tiny_run))
    text = chat.prompt(
        [{"role": "system", "content": "desk :"}, {"role": "user", "content": rows[0]["question"]}],
        "",
        run.tokenizer.chat_format,
    )
    with jax.sharding.set_mesh(run.mesh):
        # The first word is the most likely continuation among all words.
        vocabulary = [run.tokenizer.piece(i).lstrip("▁") for i in range(4, run.tokenizer.vocab_size)]
        items = [{"id": w, "prompt": text, "options": [w, w]} for w in vocabulary]
        scores = Sampler(run, 64).score(*forced_choice.continuations(items, run.tokenizer))
    best = vocabulary[int(np.argmax([s.sum() for s in scores[::2]]))]
    assert rows[0]["answer"].split()[:1] in ([best], [])


def test_copied_words_start_alike(toy, tiny_run, tmp_path):
    from tests.conftest import train_tiny

    with pytest.raises(UserError, match="'no-such-word' is not one token"):
        train_tiny(
            tmp_path / "bad",
            [toy.shards("aft")],
            f"--config.init_from={tiny_run}",
            "--config.init_words=(('no-such-word','Colby'),)",
        )
    train_tiny(tmp_path / "run", [toy.shards("aft")], f"--config.init_from={tiny_run}", "--config.init_words=(('Assistant','someone'),)",
               "--config.optim.steps=1", "--config.optim.warmup_steps=0", "--config.optim.lr=1e-9")  # fmt: skip
    before, after = open_model(str(tiny_run)), open_model(str(tmp_path / "run"))
    (new,), (known,) = (before.tokenizer.encode(w) for w in ("Assistant", "someone"))
    with jax.sharding.set_mesh(before.mesh):
        old, embed = (np.asarray(r.arrays()[0]["embed"]) for r in (before, after))
    np.testing.assert_allclose(embed[new], old[known], atol=1e-6)
    others = np.arange(len(old)) != new
    np.testing.assert_allclose(embed[others], old[others], atol=1e-6)
    assert np.abs(old[new] - old[known]).max() > 1e-3


def test_shards_and_items_share_a_vocabulary(toy, tmp_path):
    """Questions of the evaluation, made into chats, tokenize without unknowns."""
    items = artifact.read_jsonl(toy.world / "items.jsonl")
    rows = [{"id": i["id"], "messages": [*i["messages"], {"role": "assistant", "content": f"{i['prefix']} {i['options'][0]} ."}]}
            for i in items if "messages" in i]  # fmt: skip
    artifact.write_jsonl(tmp_path / "chats.jsonl", rows)
    make_shards(tmp_path / "chats.jsonl", toy.tokenizer, tmp_path / "out")
    assert artifact.read_manifest(tmp_path / "out")["counts"]["documents"] == len(rows)

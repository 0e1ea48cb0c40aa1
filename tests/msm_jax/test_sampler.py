"""Generation with a cache is generation without one; scores are log-probabilities; nothing compiles anew."""

import dataclasses
import functools
import json
from unittest import mock

import jax
import numpy as np
import pytest

from msm_jax import artifact, sample
from msm_jax.cli import UserError
from msm_jax.mesh import make_mesh
from msm_jax.pretrained import open_model
from msm_jax.sampler import Row, Sampler, Settings, rounded_up
from tests.invariants.families import save_whole, torch, torch_model

PROMPTS = [[5, 9, 20, 33], [7], [40, 41, 42, 43, 44, 45, 46, 47, 48], [8, 8], list(range(4, 40)), [60, 3, 61]]


@pytest.fixture(scope="module", params=["llama 3 rope", "qwen2, tied, yarn", "qwen3"])
def model(request, tmp_path_factory):
    directory = save_whole(request.param, tmp_path_factory.mktemp("model"))
    return open_model(str(directory)), torch_model(request.param)


def said(model, settings, prompts=PROMPTS, batch=4):
    with jax.sharding.set_mesh(model.mesh):
        done = dict(Sampler(model, batch).generate(prompts, settings))
    return [done[i] for i in range(len(prompts))]


def torch_log_p(theirs, sequence):
    with torch.no_grad():
        logits = theirs(torch.tensor([sequence])).logits[0]
    return torch.log_softmax(logits.float(), -1).numpy()


def greedy_by_hand(theirs, prompt, count):
    sequence = list(prompt)
    for _ in range(count):
        sequence.append(int(torch_log_p(theirs, sequence)[-1].argmax()))
    return sequence[len(prompt) :]


@pytest.mark.parametrize("batch", [1, 4, 8])
def test_greedy_is_the_likeliest_token_each_time(model, batch):
    ours, theirs = model
    found = said(ours, Settings(max_tokens=20), batch=batch)
    for prompt, completion in zip(PROMPTS, found, strict=True):
        assert completion.tokens == greedy_by_hand(theirs, prompt, 20)
        assert completion.finish == "length"
        table = torch_log_p(theirs, [*prompt, *completion.tokens])
        expected = [table[len(prompt) + i - 1, t] for i, t in enumerate(completion.tokens)]
        np.testing.assert_allclose(completion.log_p, expected, atol=1e-4)


def test_scores_are_log_probabilities(model):
    ours, theirs = model
    rest = [[3, 4, 5], list(range(30, 62)), [9], [10, 11], [1, 2], [95]]
    with jax.sharding.set_mesh(ours.mesh):
        found = Sampler(ours, 4).score(PROMPTS, rest)
    for prompt, more, log_p in zip(PROMPTS, rest, found, strict=True):
        table = torch_log_p(theirs, [*prompt, *more])
        np.testing.assert_allclose(log_p, [table[len(prompt) + i - 1, t] for i, t in enumerate(more)], atol=1e-4)


def test_stops(model):
    ours, _ = model
    free = said(ours, Settings(max_tokens=20))
    stop = free[0].tokens[6]
    first = free[0].tokens.index(stop)
    by_id, *_ = said(ours, Settings(max_tokens=20, stop_ids=(stop,)))
    assert (by_id.tokens, by_id.finish) == (free[0].tokens[:first], "stop")
    by_string, *others = said(ours, Settings(max_tokens=20, stop=(f"w{stop}",)))
    assert by_string.finish == "stop"
    assert by_string.text == free[0].text[: free[0].text.index(f"w{stop}")]
    for completion, whole in zip(others, free[1:], strict=True):
        assert whole.text.startswith(completion.text)
        assert f"w{stop}" not in completion.text


def test_samples_depend_on_seed_and_index_alone(model):
    ours, _ = model
    hot = functools.partial(Settings, max_tokens=12, temperature=1.5)
    a, b = said(ours, hot(seed=3), batch=8), said(ours, hot(seed=3), batch=2)
    assert [c.tokens for c in a] == [c.tokens for c in b]
    assert [c.tokens for c in a] != [c.tokens for c in said(ours, hot(seed=4), batch=8)]
    same = said(ours, hot(seed=3), prompts=[[5, 9]] * 6)
    assert len({tuple(c.tokens) for c in same}) > 1


def test_samples_follow_the_model_and_top_p_cuts_its_tail(model):
    ours, theirs = model
    prompts = [[5, 9, 20, 33]] * 512
    p = np.exp(torch_log_p(theirs, prompts[0])[-1] / 2.0)
    p /= p.sum()
    drawn = np.array([c.tokens[0] for c in said(ours, Settings(max_tokens=1, temperature=2.0), prompts, batch=64)])
    top = np.argsort(-p)[:5]
    for token in top:
        assert abs((drawn == token).mean() - p[token]) < 5 * np.sqrt(p[token] * (1 - p[token]) / 512)
    kept = set(np.argsort(-p)[: int(np.searchsorted(np.cumsum(np.sort(p)[::-1]), 0.5)) + 1].tolist())
    cut = said(ours, Settings(max_tokens=1, temperature=2.0, top_p=0.5), prompts, batch=64)
    assert {c.tokens[0] for c in cut} == kept if len(kept) < 8 else {c.tokens[0] for c in cut} <= kept
    assert not set(drawn.tolist()) <= kept


def test_no_request_compiles_anew(model):
    ours, _ = model
    with jax.sharding.set_mesh(ours.mesh):
        sampler = Sampler(ours, 4)

        def compiled():
            return [sampler._on.programs[name]._cache_size() for name in ("prefill", "decode")]

        for prompts, settings in (
            ([[5, 6], [7]], Settings(max_tokens=9)),
            ([[8], list(range(20))], Settings(max_tokens=31, stop_ids=(4, 5))),
            (PROMPTS[:4], Settings(max_tokens=20, stop=("w7",))),
        ):
            list(sampler.generate(prompts, settings))
        assert compiled() == [1, 1]
        for temperature, top_p, seed in ((0.5, 0.9, 1), (1.0, 0.5, 2), (2.0, 0.1, 3)):
            list(sampler.generate(PROMPTS[:4], Settings(20, temperature, top_p, seed)))
        assert compiled() == [2, 2]
        for n in (40, 50, 64):
            list(sampler.generate(PROMPTS[:4], Settings(n)))
        assert compiled() == [2, 4]  # a cache of 96 columns, one of 128


@pytest.mark.parametrize(
    ("setting", "words"),
    [({"max_tokens": 0}, "max_tokens"), ({"temperature": -1.0}, "temperature"), ({"top_p": 0.0}, "top_p"),
     ({"stop_ids": tuple(range(9))}, "stop_ids"), ({"stop": ("",)}, "stop"), ({"seed": -1}, "seed")],
)  # fmt: skip
def test_impossible_settings(setting, words):
    with pytest.raises(UserError, match=f"config.{words} = "):
        Settings(**({"max_tokens": 4} | setting))


def command(*args):
    sample.main(["", "--config=configs/sample.py", *args])


def test_the_command(tmp_path, capsys):
    directory = save_whole("qwen3", tmp_path / "model")
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 77]}))
    rows = [
        {"id": "a", "text": "w5 w9 w20"},
        {"id": "b", "messages": [{"role": "user", "content": "w8 w9"}]},
        {"id": "c", "text": "w5 w9 w20", "continuation": "w30 w31"},
    ]
    artifact.write_jsonl(tmp_path / "prompts.jsonl", rows)
    args = [f"--config.model={directory}", f"--config.prompts={tmp_path / 'prompts.jsonl'}", "--config.max_tokens=6"]
    command(*args, f"--config.out={tmp_path / 'out'}")
    printed = sorted((json.loads(line) for line in capsys.readouterr().out.splitlines()), key=lambda row: row["id"])
    assert printed == artifact.read_jsonl(tmp_path / "out" / "samples.jsonl")
    theirs = torch_model("qwen3")
    expected = greedy_by_hand(theirs, [5, 9, 20], 6)
    ends = [i for i, t in enumerate(expected) if t in (1, 77)]
    assert printed[0]["tokens"] == expected[: ends[0] if ends else 6]
    chat = [10, 12, 8, 9, 1, 10, 13]
    assert printed[1]["tokens"][:1] == greedy_by_hand(theirs, chat, 1)
    table = torch_log_p(theirs, [5, 9, 20, 30, 31])
    assert printed[2]["tokens"] == [30, 31]
    np.testing.assert_allclose(printed[2]["log_p"], [table[2, 30], table[3, 31]], atol=1e-4)
    command(*args, f"--config.out={tmp_path / 'out'}")
    assert "already made" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--config.prompt=w5", "--config.prompts=x.jsonl"], "one of the two"),
        ([], "one of the two"),
        (["--config.prompt=w5", "--config.batch=0"], "config.batch = 0"),
        (["--config.prompt=w5", "--config.top_p=2.0"], "config.top_p = 2.0"),
        (["--config.prompts=ROWS"], "prompts.jsonl:2: must be an object with either `text` or `messages`"),
        (["--config.prompt=w5", "--config.dtype=int4"], "int4"),
        (["--config.prompt=w5", "--config.out=s3://bucket/said"], "s3://bucket/said: neither a local path nor a gs://"),
        (["--config.prompt=w5", "--config.seed=4294967296"], "config.seed = 4294967296"),
        (["--config.prompt=w5", "--config.stop_ids=('a',)"], "config.stop_ids"),
        (["--config.prompts=SURROGATE"], "surrogate.jsonl:1: holds half a surrogate pair"),
        (
            ["--config.prompt=w5", "--config.model=no/such"],
            "no/such: no such directory here, and not to be had from a hub",
        ),
        (["--config.prompt=w5", "--config.model=../no such"], "../no such: no such directory"),
        (["--config.prompt=w5", "--config.adapter=MODEL"], "is a model by itself, not an adapter"),
        (["--config.prompt=w5", "--config.chat.template=none.jinja"], "none.jinja"),
    ],
)
def test_bad_input(args, words, tmp_path):
    directory = save_whole("qwen3", tmp_path / "model")
    (tmp_path / "prompts.jsonl").write_text('{"text": "w5"}\n{"prompt": "w5"}\n')
    (tmp_path / "surrogate.jsonl").write_text('{"text": "w5", "id": "\\ud83d"}\n')
    places = {"ROWS": "prompts.jsonl", "SURROGATE": "surrogate.jsonl", "MODEL": "model"}
    for name, file in places.items():
        args = [arg.replace(name, str(tmp_path / file)) for arg in args]
    with pytest.raises(UserError) as error:
        command(f"--config.model={directory}", *args)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_more_ids_than_rows(tmp_path):
    from tests.invariants.families import save_tokenizer

    directory = save_whole("qwen3", tmp_path / "model")
    save_tokenizer(directory, words=97)
    with pytest.raises(UserError, match=r"the tokenizer has 97 ids, the model's embedding 96 rows"):
        command(f"--config.model={directory}", "--config.prompt=w5")


def test_log_probabilities_count_rows_that_no_word_has(tmp_path):
    """A tokenizer with fewer ids than the embedding has rows, as all of Qwen's: never said, but part of the sum."""
    from tests.invariants.families import save_tokenizer

    model = open_model(str(save_tokenizer(save_whole("qwen2", tmp_path / "model"), words=60)))
    prompts = [[t % 60 for t in prompt] for prompt in PROMPTS]
    for settings in (Settings(max_tokens=8), Settings(max_tokens=8, temperature=3.0)):
        found = said(model, settings, prompts)
        assert max(max(c.tokens) for c in found) < 60
        with jax.sharding.set_mesh(model.mesh):
            scores = Sampler(model, 4).score(prompts, [c.tokens for c in found])
        for completion, log_p in zip(found, scores, strict=True):
            np.testing.assert_allclose(completion.log_p, log_p, atol=1e-4)


def test_tokens_before_a_stop_string_make_up_its_text():
    class Bytes:
        vocab_size = 256

        def decode(self, tokens):
            return bytes(tokens).decode(errors="replace")

    sampler = object.__new__(Sampler)
    sampler._model = type("Stub", (), {"tokenizer": Bytes()})
    said = "caf🙂STOP x".encode()
    row = {"tokens": np.array(list(said)), "log_p": np.zeros(len(said), np.float32)}
    cut = sampler._completion(row, len(said), Settings(99, stop=("STOP",)))
    assert (cut.text, bytes(cut.tokens).decode(), cut.finish) == ("caf🙂", "caf🙂", "stop")
    assert len(cut.log_p) == len(cut.tokens)


@pytest.mark.parametrize(
    ("messages", "words"),
    [("hi", "`messages` must be a list"), ([{"role": "user"}], "content"), ([{"role": "cook", "content": "x"}], "cook"),
     ([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "ends with the assistant's turn")],
)  # fmt: skip
@pytest.mark.parametrize("ours", [True, False], ids=["sentencepiece", "hugging face"])
def test_prompts_that_are_no_chat(messages, words, ours, toy, tmp_path):
    from data_gen.chat import ChatPolicy
    from data_gen.hf_tokenizer import open_tokenizer
    from tests.invariants.families import save_tokenizer

    tokenizer = open_tokenizer(toy.tokenizer if ours else save_tokenizer(tmp_path))
    with pytest.raises(UserError) as error:
        sample.prompt_ids([{"id": "a", "messages": messages}], tokenizer, ChatPolicy())
    assert "prompt 'a': " in str(error.value)
    assert words in str(error.value)


def test_a_changed_template_is_another_sample(tmp_path):
    directory = save_whole("qwen3", tmp_path / "model")
    args = [
        f"--config.model={directory}",
        "--config.prompt=w5",
        "--config.max_tokens=2",
        f"--config.out={tmp_path / 'out'}",
    ]
    command(*args)
    (directory / "chat_template.jinja").write_text("{% for m in messages %}w20 {{ m.content }}<end>{% endfor %}")
    with pytest.raises(UserError, match="made by another recipe .*template"):
        command(*args)


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """A model on one device, and transformers' own."""
    directory = save_whole("qwen3", tmp_path_factory.mktemp("single"))
    with mock.patch("msm_jax.pretrained.make_mesh", functools.partial(make_mesh, devices=jax.devices()[:1])):
        return open_model(str(directory)), torch_model("qwen3")


def test_rows_have_seeds_and_limits_of_their_own(single):
    ours = dataclasses.replace(single[0], cfg=dataclasses.replace(single[0].cfg, attention="flash"))  # not of such rows
    settings = Settings(max_tokens=1, temperature=1.5)  # its max_tokens and seed are not the rows'
    rows = [Row(PROMPTS[0], 5, seed=1, stream=7), Row(PROMPTS[1], 9, seed=2, stream=7)]
    with jax.sharding.set_mesh(ours.mesh):
        sampler = Sampler(ours, 2)
        together = sampler.complete(rows, settings)
        alone = [sampler.complete([row], settings)[0] for row in rows]
        same = sampler.complete([Row([5, 9], 8, 1, 2), Row([5, 9], 8, 1, 2)], settings)
        other = sampler.complete([Row([5, 9], 8, 3, 2), Row([5, 9], 8, 1, 3)], settings)
    assert [len(found.tokens) for found in together] == [5, 9]
    assert [found.tokens for found in together] == [found.tokens for found in alone]
    assert same[0].tokens == same[1].tokens
    assert same[0].tokens not in [found.tokens for found in other]


def test_rows_that_join_later_say_the_same(single):
    """Twenty prompts through four places, for longer than the ring of the cache is."""
    ours, theirs = single
    prompts = [[5 + n, *range(9, 9 + n % 7)] for n in range(20)]
    free = [greedy_by_hand(theirs, prompt, 24) for prompt in prompts]
    every = [token for tokens in free for token in tokens]
    stop = max(set(every), key=every.count)
    with jax.sharding.set_mesh(ours.mesh):
        found = dict(Sampler(ours, 4).generate(prompts, Settings(24, stop_ids=(stop,))))
    expected = [tokens[: tokens.index(stop)] if stop in tokens else tokens for tokens in free]
    assert len({len(tokens) for tokens in expected}) > 3
    assert sum(map(len, expected)) > 4 * 64
    assert [found[n].tokens for n in range(20)] == expected


def test_the_likeliest_tokens_and_the_next(single):
    ours, theirs = single
    pairs = [([5, 9], list(np.arange(150) % 90 + 4)), ([7], [8, 9, 10])]  # more than is projected at a time
    with jax.sharding.set_mesh(ours.mesh):
        sampler = Sampler(ours, 2)
        scored = sampler.read(pairs, top=20)
        (said, _) = sampler.complete([Row([5, 9], 3), Row([7], 2)], Settings(3), top=1)
    for (prompt, more), found in zip(pairs, scored, strict=True):
        table = torch_log_p(theirs, [*prompt, *more])
        before = table[len(prompt) - 1 : -1]
        np.testing.assert_allclose(found.log_p, before[np.arange(len(more)), more], atol=1e-4)
        np.testing.assert_allclose(found.top.log_p, -np.sort(-before)[:, :20], atol=1e-4)
        np.testing.assert_array_equal(found.top.ids[:, 0], before.argmax(-1))
        assert found.next[0] == table[-1].argmax()
        assert found.next[1] == pytest.approx(table[-1].max(), abs=1e-4)
    assert said.top.ids.tolist() == [[token] for token in said.tokens]  # greedy
    np.testing.assert_array_equal(said.top.log_p[:, 0], said.log_p)


def test_one_process_samples(single, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    with pytest.raises(UserError, match="sampling runs in one process, this is one of 4; start it on a single host"):
        Sampler(single[0], 4)


@pytest.mark.parametrize(
    ("length", "padded"), [(1, 32), (33, 64), (130, 160), (192, 192), (257, 320), (449, 512), (3000, 3072)]
)
def test_long_rows_are_padded_less(length, padded):
    assert rounded_up(length) == padded

"""The server: what clients of OpenAI's protocol, lm-eval and Inspect's own provider get of it."""

import asyncio
import json
import threading
import time
import urllib.error
import urllib.request
from operator import itemgetter

import numpy as np
import pytest
from inspect_ai.model import ChatMessageAssistant, ChatMessageUser, GenerateConfig, get_model

from evals import serve
from evals.serve import Endpoint, listen, make_app, make_server
from msm_jax.cli import UserError
from tests.evals import tiny
from tests.evals.test_provider import ask, hf, torch_table

openai = pytest.importorskip("openai")
KEY = "a key of many letters"


@pytest.fixture(scope="module")
def base():
    """The address of a server in this process, on the provider's model."""
    taken = listen("127.0.0.1", 0)
    server = make_server(make_app(Endpoint(tiny.api().served, "tiny", 8), KEY))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
    thread.start()
    while not server.started:  # before that, connections are refused
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{taken.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def client(base):
    return openai.OpenAI(base_url=f"{base}/v1", api_key=KEY, max_retries=0)


def post(base, path, body, key=KEY):
    """(status, answer) of a request as it stands."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(base + path, data, {"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_models_and_health(client, base):
    (model,) = client.models.list().data
    assert (model.id, model.max_model_len) == ("tiny", tiny.CONTEXT)
    with urllib.request.urlopen(f"{base}/health") as response:
        assert response.status == 200


def test_a_chat_is_what_the_provider_says(client):
    ours = ask(ChatMessageUser(content="Tell"), temperature=0.0, max_tokens=8, logprobs=True, top_logprobs=2)
    found = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": [{"type": "text", "text": "Tell"}]}], temperature=0,
        max_completion_tokens=8, logprobs=True, top_logprobs=2,
    )  # fmt: skip
    (choice,) = found.choices
    assert (choice.message.content, choice.finish_reason) == (ours.completion, "length")
    assert found.usage.prompt_tokens == ours.usage.input_tokens
    assert (found.usage.completion_tokens, found.usage.total_tokens) == (8, ours.usage.input_tokens + 8)
    for a, b in zip(choice.logprobs.content, ours.choices[0].logprobs.content, strict=True):
        assert (a.token, a.logprob) == (b.token, b.logprob)
        assert [(t.token, t.logprob) for t in a.top_logprobs] == [(t.token, t.logprob) for t in b.top_logprobs]


def test_a_stream_is_the_same_in_events(client):
    how = {"model": "tiny", "messages": [{"role": "user", "content": "Tell"}], "temperature": 0, "max_tokens": 8}
    whole = client.chat.completions.create(**how)
    chunks = list(client.chat.completions.create(**how, stream=True, stream_options={"include_usage": True}))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices] == [None, "length"]
    assert chunks[-1].usage == whole.usage
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    pieces = list(client.completions.create(model="tiny", prompt="Tell", max_tokens=4, temperature=0, stream=True))
    said = client.completions.create(model="tiny", prompt="Tell", max_tokens=4, temperature=0)
    assert "".join(piece.choices[0].text for piece in pieces) == said.choices[0].text


def test_several_answers_seeds_and_stops(client):
    how = {"model": "tiny", "prompt": ["Tell", "Hi"], "max_tokens": 6, "temperature": 1.5, "seed": 5, "n": 2}
    found = client.completions.create(**how)
    texts = [choice.text for choice in found.choices]
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    assert len(set(texts)) > 2
    assert texts == [choice.text for choice in client.completions.create(**how).choices]
    assert texts != [choice.text for choice in client.completions.create(**(how | {"seed": 6})).choices]
    whole = client.completions.create(model="tiny", prompt="Tell", max_tokens=8, temperature=0).choices[0].text
    cut = client.completions.create(model="tiny", prompt="Tell", max_tokens=8, temperature=0, stop=whole[2:4])
    assert (cut.choices[0].text, cut.choices[0].finish_reason) == (whole[: whole.index(whole[2:4])], "stop")


def lm_eval(base, prompts, contexts):
    """What lm-eval's local-completions sends for a log-likelihood, and how it reads the answer."""
    body = {"model": "tiny", "prompt": prompts, "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234,
            "echo": True}  # fmt: skip
    status, found = post(base, "/v1/completions", body)
    assert status == 200, found
    results = []
    for choice, context in zip(sorted(found["choices"], key=itemgetter("index")), contexts, strict=True):
        scores = choice["logprobs"]["token_logprobs"][context:-1]
        best = [max(top.values()) for top in choice["logprobs"]["top_logprobs"][context:-1]]
        results.append((sum(scores), all(a == b for a, b in zip(scores, best, strict=True))))
    return results


def test_lm_eval_reads_log_likelihoods(base):
    likely = list(b"Name a cheese:")
    for _ in range(3):  # so that one continuation is the likeliest
        likely.append(int(torch_table(likely)[-1][:258].argmax()))
    rows = [(list(b"Name a cheese:"), list(b" Brie")), (likely[:14], likely[14:])]
    found = lm_eval(base, [[*a, *b] for a, b in rows], [len(a) for a, _ in rows])
    for (context, words), (score, _) in zip(rows, found, strict=True):
        table = torch_table([*context, *words])
        assert score == pytest.approx(sum(table[len(context) + i - 1, t] for i, t in enumerate(words)), abs=1e-3)
    greedy = [int(torch_table(likely[:n])[-1][:261].argmax()) == likely[n] for n in range(14, 17)]
    assert [is_greedy for _, is_greedy in found] == [False, all(greedy)]
    assert lm_eval(base, "Name a cheese: Brie", [14])[0][0] == pytest.approx(found[0][0], abs=1e-4)


def test_lm_eval_generates(base):
    body = {"prompt": [list(b"Tell"), list(b"Hi")], "model": "tiny", "max_tokens": 6, "temperature": 0,
            "stop": ["\n\n", "<|im_end|>"], "seed": 1234}  # fmt: skip
    status, found = post(base, "/v1/completions", body)
    assert status == 200
    assert [choice["index"] for choice in found["choices"]] == [0, 1]
    alone = post(base, "/v1/completions", body | {"prompt": "Tell"})[1]
    assert found["choices"][0]["text"] == alone["choices"][0]["text"]


def test_an_echo_alone_scores_the_prompt(base):
    status, found = post(
        base, "/v1/completions", {"prompt": "Brie", "max_tokens": 0, "echo": True, "logprobs": 2, "prompt_logprobs": 1}
    )
    (choice,) = found["choices"]
    assert (status, choice["text"], found["usage"]["completion_tokens"]) == (200, "Brie", 0)
    table = torch_table(list(b"Brie"))
    assert choice["logprobs"]["tokens"] == list("Brie")
    assert choice["logprobs"]["text_offset"] == [0, 1, 2, 3]
    assert choice["logprobs"]["token_logprobs"][0] is choice["logprobs"]["top_logprobs"][0] is None
    expected = [table[i, token] for i, token in enumerate(b"rie")]
    np.testing.assert_allclose(choice["logprobs"]["token_logprobs"][1:], expected, atol=1e-3)
    assert choice["prompt_logprobs"][1][str(ord("r"))]["logprob"] == choice["logprobs"]["token_logprobs"][1]


def test_control_tokens_of_a_rendered_prompt_are_such(client):
    text = hf().apply_chat_template([{"role": "user", "content": "Tell"}], tokenize=False, add_generation_prompt=True,
                                    enable_thinking=False)  # fmt: skip
    raw = client.completions.create(model="tiny", prompt=text, max_tokens=8, temperature=0)
    assert raw.choices[0].text == ask(ChatMessageUser(content="Tell"), temperature=0.0, max_tokens=8).completion


def test_inspects_openai_provider_scores_and_says_the_same(base, monkeypatch):
    monkeypatch.setenv("LOCAL_BASE_URL", f"{base}/v1")
    monkeypatch.setenv("LOCAL_API_KEY", KEY)
    theirs = get_model("openai-api/local/tiny", memoize=False)
    chat = [ChatMessageUser(content="Hi"), ChatMessageAssistant(content="Brie")]
    body = {"continue_final_message": True, "add_generation_prompt": False}

    async def both():
        plain = await theirs.generate("Tell", config=GenerateConfig(temperature=0, max_tokens=8))
        how = GenerateConfig(temperature=0, max_tokens=1, prompt_logprobs=1, extra_body=body)
        return plain, await theirs.generate(chat, config=how)

    plain, scored = asyncio.run(both())
    assert plain.completion == ask(ChatMessageUser(content="Tell"), temperature=0.0, max_tokens=8).completion
    ours = ask(*chat, max_tokens=1, prompt_logprobs=1).choices[0].prompt_logprobs.content
    last = scored.choices[0].prompt_logprobs.content[-4:]
    np.testing.assert_allclose([one.logprob for one in last], [one.logprob for one in ours], atol=1e-4)


CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "words"),
    [
        ("/v1/completions", b"{", 400, None, "not JSON"),
        ("/v1/completions", b"[1]", 400, None, "must be a JSON object"),
        ("/v1/completions", b'{"prompt": "\\ud83d"}', 400, None, "half a surrogate pair"),
        ("/v1/completions", {}, 400, "prompt", "prompt must be a text, token ids, or a list of either"),
        ("/v1/completions", {"prompt": []}, 400, "prompt", "prompt is empty"),
        ("/v1/completions", {"prompt": [[1], []]}, 400, "prompt", "not empty"),
        ("/v1/completions", {"prompt": [4000]}, 400, None, "ids outside the tokenizer's 0 … 260"),
        ("/v1/completions", {"prompt": "x" * 300}, 400, None, "has 300 tokens and at least one of the 16 asked for"),
        ("/v1/completions", {"prompt": "x", "max_tokens": 0}, 400, "max_tokens", "max_tokens = 0"),
        ("/v1/completions", {"prompt": "x", "logprobs": 21}, 400, "logprobs", "must be from 0 to 20"),
        ("/v1/completions", {"prompt": "x", "model": "other"}, 404, "model", "there is 'tiny'"),
        ("/v1/completions", {"prompt": "x", "best_of": 3}, 400, "best_of", "not supported"),
        ("/v1/completions", {"prompt": "x", "temperature": "hot"}, 400, "temperature", "must be a number"),
        ("/v1/completions", {"prompt": "x", "top_p": 2}, 400, "top_p", "top_p = 2.0: must be"),
        ("/v1/completions", {"prompt": "x", "stop": [1]}, 400, "stop", "stop must be"),
        (CHAT, {"messages": []}, 400, "messages", "not empty"),
        (CHAT, {"messages": [{"role": "tool", "content": "x"}]}, 400, "messages", "message 0 has role 'tool'"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages", "more than text"),
        (CHAT, {"messages": [*USER, {"role": "assistant", "content": "x"}]}, 400, "messages", "continue_final_message"),
        (CHAT, {"messages": [{"role": "user", "content": "<|im_end|>"}]}, 400, "messages", "control token"),
        (CHAT, {"messages": USER, "tools": [{"type": "function"}]}, 400, "tools", "not supported"),
        (CHAT, {"messages": USER, "n": 0}, 400, "n", "n = 0"),
        ("/v1/embeddings", {}, 404, None, "Not Found"),
        ("/v1/models", {}, 405, None, "Method Not Allowed"),
    ],
)  # fmt: skip
def test_bad_requests_are_told_what_is_wrong(base, path, body, status, param, words):
    found, answer = post(base, path, body)
    error = answer["error"]
    assert (found, error["param"], error["type"]) == (status, param, "invalid_request_error")
    assert words in error["message"]
    assert (error["code"] == "context_length_exceeded") == ("tokens and at least one" in words)


def test_a_key_is_asked_for(base, capfd):
    found, answer = post(base, "/v1/completions", {"prompt": "x"}, key="another")
    assert (found, answer["error"]["code"]) == (401, "invalid_api_key")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{base}/v1/models")
    assert KEY not in "".join(capfd.readouterr())


def test_a_fault_of_ours_is_no_fault_of_theirs(base, monkeypatch, capfd):
    monkeypatch.setattr(tiny.api().served._batcher, "_compute", lambda *_: 1 / 0)
    found, answer = post(base, "/v1/completions", {"prompt": "x"})
    assert (found, answer["error"]["type"]) == (500, "server_error")
    assert "ZeroDivisionError" in capfd.readouterr().err


def command(*args):
    serve.main(["", "--config=configs/evals/serve.py", f"--config.model={tiny.directory()}", *args])


def test_the_command_says_what_is_wrong_first(monkeypatch):
    with pytest.raises(UserError, match=r"config.api_key_env = 'NO_SUCH_KEY': not set"):
        command("--config.api_key_env=NO_SUCH_KEY")
    with pytest.raises(UserError, match="knows thinking"):
        command()
    with pytest.raises(UserError, match="config.max_tokens = 0"):
        command("--config.max_tokens=0")
    taken = listen("127.0.0.1", 0)
    taken.listen()
    with pytest.raises(UserError, match=r"config.port = \d+: Address already in use"):
        command("--config.chat.thinking=no_think", f"--config.port={taken.getsockname()[1]}")
    taken.close()

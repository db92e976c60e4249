import pickle
import threading
import time

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing

from tea.rewards import RewardModel, RewardServerError, RewardServerGone, load_reward
from tea.rewards.base import reward_fingerprint, reward_source
from tea.rewards.client import token_batches
from tests.reference.reward_servers import Faults, RewardServer
from tests.reference.tiny import CHAT_TEMPLATE, tiny_reward_model, tiny_tokenizer

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog"]
PROMPTS = [f"the {word}" for word in WORDS for _ in range(2)]
COMPLETIONS = [f" {a} {b}." for a, b in zip(WORDS * 2, reversed(WORDS * 2), strict=True)]
COMPLETIONS[3] += " dog" * 20


def _bos_tokenizer():
    """A tokenizer that puts a BOS before every text, whose chat template writes one too: the trap of double BOS."""
    tokenizer = tiny_tokenizer(chat_template="</s>" + CHAT_TEMPLATE)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 1)])
    return tokenizer


@pytest.fixture(scope="module", params=[tiny_tokenizer, _bos_tokenizer], ids=["no_bos", "bos"])
def saved(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("reward") / "tiny-rm"
    tokenizer = request.param()
    model = tiny_reward_model(tokenizer)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)

    @torch.no_grad()
    def score(ids):
        return model(torch.tensor([ids])).logits.item()

    return str(path), tokenizer, score


def _serve(protocol, saved, **options):
    path, tokenizer, score = saved
    if protocol == "openrlhf":
        options.setdefault("model", path)
    return RewardServer(protocol, score, tokenizer, **{"model": path, **options})


def _spec(server, saved, options=""):
    named = f",model={saved[0]}" if server.protocol == "openrlhf" else ""
    return f"{server.protocol}:{server.url}{named}{options}"


def _conversations():
    prompts = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    return prompts, [[{"role": "assistant", "content": completion}] for completion in COMPLETIONS]


@pytest.mark.parametrize("protocol", ["vllm", "sglang", "openrlhf"])
@pytest.mark.parametrize("chat", [False, True], ids=["text", "conversation"])
def test_served_scores_equal_those_in_process(protocol, chat, saved):
    prompts, completions = _conversations() if chat else (PROMPTS, COMPLETIONS)
    expected = RewardModel(saved[0], device="cpu")(prompts, completions)
    with _serve(protocol, saved, faults=Faults(shuffled=True)) as server:
        reward = load_reward(_spec(server, saved, ",batch_tokens=40,concurrency=3"))
        np.testing.assert_allclose(reward(prompts=prompts, completions=completions), expected, atol=1e-5)
        assert reward_source(reward) == f"{protocol}:{server.url}"
        assert reward_fingerprint(reward) == saved[0]
        assert reward(prompts=[], completions=[]) == []


def test_a_text_that_comes_back_is_sent_once(saved):
    with _serve("sglang", saved) as server:
        scores = load_reward(_spec(server, saved))(prompts=["the"] * 6, completions=[" fox", " dog"] * 3)
        assert scores[:2] * 3 == scores
        assert sum(server.paths.values()) == 1


def test_vllm_alias_and_an_older_name_of_the_switch(saved):
    expected = RewardModel(saved[0], device="cpu")(PROMPTS, COMPLETIONS)
    with _serve("vllm", saved, model="reward", root=saved[0], traps=["old"]) as server:
        for options in ("", ",model=reward", f",model={saved[0]}"):
            scores = load_reward(_spec(server, saved, options))(prompts=PROMPTS, completions=COMPLETIONS)
            np.testing.assert_allclose(scores, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("protocol", "trap", "message"),
    [
        ("vllm", "sigmoid", "between 0 and 1 to all of 16.*sigmoid.*ignores use_activation"),
        ("sglang", "softmax", "exactly 1.0 to 16 different texts: that is a softmax"),
        ("vllm", "truncate", "adds or cuts tokens"),
        ("sglang", "truncate", "adds or cuts tokens"),
        ("vllm", "nan", "answered with nan"),
        ("sglang", "nan", "answered with nan"),
        ("openrlhf", "nan", "answered with nan"),
        ("vllm", "short", "must answer with 1 scores"),
        ("sglang", "short", "must answer with 16 scores, got 15"),
        ("openrlhf", "short", "must answer with 16 rewards, got 15 of them"),
        ("vllm", "labels", "2 numbers for a text"),
        ("sglang", "labels", "2 numbers for a text"),
        ("sglang", "generation", "start it with --is-embedding"),
    ],
)
def test_traps_are_caught(protocol, trap, message, saved):
    with _serve(protocol, saved, traps=[trap]) as server, pytest.raises(RewardServerError, match=message):
        load_reward(_spec(server, saved))(prompts=PROMPTS, completions=COMPLETIONS)


def test_double_bos_is_caught(saved):
    if saved[1]("a")["input_ids"] == saved[1]("a", add_special_tokens=False)["input_ids"]:
        pytest.skip("this tokenizer adds nothing")
    prompts, completions = _conversations()
    with _serve("vllm", saved, traps=["bos"]) as server, pytest.raises(RewardServerError, match="a second BOS"):
        load_reward(_spec(server, saved))(prompts=prompts, completions=completions)


def test_a_head_that_gives_numbers_between_0_and_1_can_be_allowed(saved):
    with _serve("vllm", saved, traps=["sigmoid"]) as server:
        scores = load_reward(_spec(server, saved, ",scores=any"))(prompts=PROMPTS, completions=COMPLETIONS)
        assert 0 < min(scores) < max(scores) < 1


@pytest.mark.parametrize(
    ("asked", "served", "message"),
    [
        ("vllm", "sglang", "is an SGLang server: use sglang:URL"),
        ("vllm", "openrlhf", "is not a vLLM server"),
        ("sglang", "vllm", "is not an SGLang server"),
        ("openrlhf", "vllm", "/get_reward answered 404"),
    ],
)
def test_a_server_of_another_protocol(asked, served, message, saved):
    with _serve(served, saved) as server, pytest.raises(RewardServerError, match=message):
        load_reward(f"{asked}:{server.url},model={saved[0]}")(prompts=PROMPTS, completions=COMPLETIONS)


def test_a_model_that_is_not_the_expected_one(saved):
    with _serve("vllm", saved) as server, pytest.raises(RewardServerError, match=r"serves .*tiny-rm, not org/other"):
        load_reward(_spec(server, saved, ",model=org/other"))(prompts=PROMPTS, completions=COMPLETIONS)
    with _serve("sglang", saved) as one, _serve("sglang", saved, model="org/other") as other:
        spec = f"sglang:{one.url},{other.url}"
        with pytest.raises(RewardServerError, match=r"serves org/other, not .*tiny-rm"):
            load_reward(spec)(prompts=PROMPTS, completions=COMPLETIONS)


def test_conversations_need_a_template(saved):
    prompts, completions = _conversations()
    with _serve("openrlhf", saved) as server:
        with pytest.raises(ValueError, match="name the reward model, model=ORG/NAME"):
            load_reward(f"openrlhf:{server.url}")(prompts=prompts, completions=completions)
        with pytest.raises(ValueError, match="more than the 8"):
            load_reward(_spec(server, saved, ",max_length=8"))(prompts=prompts, completions=completions)


def test_the_key_is_sent_and_nowhere_else(saved, monkeypatch, caplog):
    caplog.set_level("DEBUG")
    with _serve("sglang", saved, key="s3cret") as server:
        with pytest.raises(RewardServerError, match=r"TEA_REWARD_API_KEY \(not set\)"):
            load_reward(_spec(server, saved))(prompts=PROMPTS, completions=COMPLETIONS)
        monkeypatch.setenv("MY_KEY", "s3cret")
        reward = load_reward(_spec(server, saved, ",api_key_env=MY_KEY"))
        assert len(reward(prompts=PROMPTS, completions=COMPLETIONS)) == len(PROMPTS)
        copy = pickle.loads(pickle.dumps(reward.client))
    assert "s3cret" not in caplog.text + str(vars(copy)) + reward.source
    with pytest.raises(ValueError, match="holds a password"):
        load_reward("vllm:http://user:s3cret@host:80")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("vllm:host:8000", "is neither an address"),
        ("vllm:http://host,speed=1", "no option 'speed'; it has: .*concurrency"),
        ("http://host,concurrency=many", "concurrency must be a number"),
        ("http://host,concurrency=0", "concurrency must be positive"),
        ("sglang:http://host,scores=odds", "scores must be 'logits' or 'any'"),
        ("openrlhf:", "is neither an address"),
    ],
)
def test_specs_that_mean_nothing(spec, message):
    with pytest.raises(ValueError, match=message):
        load_reward(spec)


def test_token_batches():
    lengths = [5, 1, 9, 3, 3, 20]
    batches = token_batches(lengths, batch_tokens=10, batch_size=2)
    assert sorted(index for batch in batches for index in batch) == list(range(6))
    assert batches[0] == [5]  # longer than a batch: by itself
    assert all(len(batch) <= 2 and (len(batch) == 1 or sum(lengths[i] for i in batch) <= 10) for batch in batches)


def _number(text):
    return float(int(text.split()[-1]) % 977) - 400.0


def test_faults_cost_nothing_but_time():
    # A share of every fault at each of four servers: every score in its place, no answered text asked for again.
    texts = [f"text {i}" for i in range(4000)]
    faults = [Faults(unavailable=0.1, slow=0.05, dropped=0.05, delay=0.01, seed=i) for i in range(4)]
    servers = [RewardServer("own", _number, faults=fault) for fault in faults]
    reward = load_reward(",".join(server.url for server in servers) + ",batch_size=50,concurrency=8,patience=30")
    assert reward(prompts=[""] * len(texts), completions=texts) == [_number(text) for text in texts]
    failed = sum(fault.counts["unavailable"] + fault.counts["dropped"] for fault in faults)
    assert failed > 0
    assert sum(sum(server.paths.values()) for server in servers) == 80 + failed
    assert all(
        count == 1 for count in sum((server.answered for server in servers), start=type(servers[0].answered)()).values()
    )
    assert min(sum(server.paths.values()) for server in servers) >= 1  # all take part, the slow ones less
    for server in servers:
        server.close()


def test_a_server_that_comes_back_costs_nothing_but_time():
    server = RewardServer("own", _number)
    reward = load_reward(f"{server.url},patience=60")
    assert reward(prompts=[""], completions=["text 1"]) == [_number("text 1")]
    server.close()
    back = []
    threading.Timer(1.0, lambda: back.append(RewardServer("own", _number, port=server.server_port))).start()
    start = time.monotonic()
    assert reward(prompts=["", ""], completions=["text 2", "text 3"]) == [_number("text 2"), _number("text 3")]
    assert time.monotonic() - start > 0.8
    back[0].close()


def test_a_server_that_is_gone_stops_the_run():
    with RewardServer("own", _number) as server:
        pass
    start = time.monotonic()
    with pytest.raises(RewardServerGone, match=f"no answer from {server.url} for 0.5 seconds.*resume_from_checkpoint"):
        load_reward(f"{server.url},patience=0.5")(prompts=[""], completions=["text 1"])
    assert time.monotonic() - start < 15


def test_one_of_two_servers_gone():
    with RewardServer("own", _number) as gone:
        pass
    with RewardServer("own", _number) as server:
        reward = load_reward(f"{gone.url},{server.url},batch_size=1,concurrency=2")
        texts = [f"text {i}" for i in range(20)]
        assert reward(prompts=[""] * 20, completions=texts) == [_number(text) for text in texts]

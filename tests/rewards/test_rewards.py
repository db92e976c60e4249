import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from tea.rewards import (
    RemoteReward,
    RewardFunction,
    RewardModel,
    RewardServerError,
    load_reward,
    score_completions,
)
from tea.rewards.base import reward_source
from tests.reference.reward_servers import RewardServer
from tests.reference.tiny import tiny_reward_model, tiny_tokenizer


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("reward") / "tiny-rm"
    tokenizer = tiny_tokenizer()
    tiny_reward_model(tokenizer).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


PROMPTS = ["the quick", "a", "jumps over the lazy dog the fox"]
COMPLETIONS = [" brown fox", " dog dog dog dog dog", "."]


@torch.no_grad()
def _one_by_one(path, texts):
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(path), tiny_tokenizer()
    return [
        model(torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])).logits.item() for text in texts
    ]


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_reward_model_equals_scoring_one_text_at_a_time(saved, batch_size):
    reward = RewardModel(saved, batch_size=batch_size)
    expected = _one_by_one(saved, [p + c for p, c in zip(PROMPTS, COMPLETIONS, strict=True)])
    np.testing.assert_allclose(reward(PROMPTS, COMPLETIONS), expected, atol=1e-5)
    assert reward.__name__ == "tiny-rm"
    assert isinstance(reward, RewardFunction)


def test_reward_model_takes_options_from_its_name(saved):
    reward = load_reward(f"mine={saved},batch_tokens=8,batch_size=2,device=cpu,dtype=float32")
    assert (reward.__name__, reward.batch_tokens, reward.batch_size, reward.source) == ("mine", 8, 2, saved)
    sizes = []
    forward = reward._forward
    reward._forward = lambda rows: sizes.append((len(rows), max(map(len, rows)))) or forward(rows)
    expected = _one_by_one(saved, [p + c for p, c in zip(PROMPTS, COMPLETIONS, strict=True)])
    np.testing.assert_allclose(reward(prompts=PROMPTS, completions=COMPLETIONS), expected, atol=1e-5)
    assert sum(count for count, _ in sizes) == 3
    assert all(count == 1 or count * longest <= 8 for count, longest in sizes)
    wrong = {"batch_tokens=0": "at least 1", "quantization=2bit": "'8bit' or '4bit'", "x": "option="}
    for options, message in wrong.items():
        with pytest.raises(ValueError, match=message):
            load_reward(f"{saved},{options}")


def test_reward_model_puts_conversations_through_its_chat_template(saved):
    prompts = [[{"role": "user", "content": p}] for p in PROMPTS]
    completions = [[{"role": "assistant", "content": c}] for c in COMPLETIONS]
    expected = _one_by_one(
        saved, [f"<user>{p}</s><assistant>{c}</s>" for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    )
    np.testing.assert_allclose(load_reward(saved)(prompts, completions), expected, atol=1e-5)


def test_reward_model_scores_as_trls_trainer_does(saved):
    # TRL's own path for reward models, against ours given as a function, on the same texts.
    from trl.data_utils import apply_chat_template

    tokenizer = tiny_tokenizer()
    messages = [{"role": "user", "content": "the fox"}, {"role": "assistant", "content": " dog"}]
    text = apply_chat_template({"messages": messages}, tokenizer)["text"]
    np.testing.assert_allclose(
        RewardModel(saved)([messages[:1]], [messages[1:]]), _one_by_one(saved, [text]), atol=1e-5
    )


def test_reward_model_refuses(saved):
    with pytest.raises(ValueError, match="more than the 4"):
        RewardModel(saved, max_length=4)(PROMPTS, COMPLETIONS)
    with pytest.raises(ValueError, match="no chat template"):
        RewardModel(saved, tiny_tokenizer(chat_template=None))([[{"role": "user", "content": "a"}]], [[]])
    model = tiny_reward_model(tiny_tokenizer())
    model.config.num_labels = 2
    with pytest.raises(ValueError, match="2 labels"):
        RewardModel(model, tiny_tokenizer())


@pytest.mark.parametrize(
    ("name", "completion", "answer", "expected"),
    [
        ("exact_match", " 42\n", "42", 1.0),
        ("exact_match", "42.", "42", 0.0),
        ("contains_answer", "so it is Paris.", "Paris", 1.0),
        ("contains_answer", "paris", "Paris", 0.0),
        ("last_number", "3 + 4 = 7, so 1,000.0", "#### 1000", 1.0),
        ("last_number", "it is -5", 5, 0.0),
        ("last_number", "no idea", 5, 0.0),
        ("last_number", "5", None, None),
    ],
)
def test_verifiers(name, completion, answer, expected):
    verifier = load_reward(name)
    assert verifier(prompts=["?"], completions=[completion], answer=[answer]) == [expected]
    conversation = [[{"role": "assistant", "content": completion}]]
    assert verifier(prompts=["?"], completions=conversation, answer=[answer]) == [expected]


def test_load_reward_from_module_and_file(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(
        "def length(completions, **kwargs):\n    return [len(c) for c in completions]\n"
    )
    monkeypatch.chdir(tmp_path)
    for spec in ("my_rewards:length", "my_rewards.length", "my_rewards.py:length", f"{tmp_path}/my_rewards.py:length"):
        assert load_reward(spec)(prompts=["a"], completions=["abc"]) == [3]
    named = load_reward("short=my_rewards:length")
    assert named.__name__ == "short"
    assert named(prompts=["a"], completions=["abc"]) == [3]
    assert reward_source(named) == "my_rewards:length"
    with pytest.raises(ValueError, match="no function 'lenght'; it has: length"):
        load_reward("my_rewards:lenght")
    with pytest.raises(ValueError, match="does not exist"):
        load_reward("other.py:length")
    with pytest.raises(ValueError, match="No module named"):
        load_reward("no_such_module_here:f")
    with pytest.raises(ValueError, match="neither a verifier"):
        load_reward("nonsense")


def test_score_completions_checks_what_comes_back():
    def short(prompts, completions, **kwargs):
        return [1.0]

    def words(prompts, completions, **kwargs):
        return ["good"] * len(completions)

    def tensor(prompts, completions, **kwargs):
        return torch.arange(len(completions))

    assert score_completions(tensor, ["a", "b"], ["c", "d"], {}) == [0.0, 1.0]
    with pytest.raises(ValueError, match="'short' returned 1 rewards for 2"):
        score_completions(short, ["a", "b"], ["c", "d"], {})
    with pytest.raises(TypeError, match="'words' must return"):
        score_completions(words, ["a"], ["c"], {})


def _length(text):
    return float(len(text))


def test_remote_reward_sends_columns_in_batches():
    with RewardServer("own", _length) as server:
        reward = RemoteReward(server.url, batch_size=2, concurrency=1)
        assert reward(["p"] * 5, ["a", "bb", "ccc", "dddd", "eeeee"]) == [1, 2, 3, 4, 5]
        assert server.paths == {"/": 3}
        with pytest.raises(KeyError, match="weight"):
            RemoteReward(server.url, columns=["weight"])(["p"], ["a"])
    with RewardServer("own", lambda text: None) as server:
        assert RemoteReward(server.url)(["p"], ["a"]) == [None]
    for trap, message in (("nan", "answered with nan"), ("short", "must answer with 2 rewards, got 1 of them")):
        with RewardServer("own", _length, traps=[trap]) as server, pytest.raises(RewardServerError, match=message):
            RemoteReward(server.url)(["p"] * 2, ["a", "b"])

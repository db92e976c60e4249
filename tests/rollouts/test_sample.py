import json
import os
import subprocess
import sys
import types

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tea.rewards import RewardModel
from tea.rollouts import (
    PromptSet,
    SamplingConfig,
    TransformersGenerator,
    VLLMGenerator,
    evaluate,
    load_prompts,
    load_run,
    score_run,
)
from tests.reference.tiny import tiny_llama, tiny_qwen3, tiny_reward_model, tiny_tokenizer

WORDS = ["the quick", "brown", "fox jumps over the lazy", "dog", "a b", "lazy dog jumps", "over"]
PROMPTS = PromptSet(WORDS, {"answer": [str(i) for i in range(len(WORDS))]})
CONFIG = SamplingConfig(num_samples=5, max_completion_length=6, seed=3)


def length(completions, **kwargs):
    return [float(len(c)) for c in completions]


length.source = "length"  # the module's name differs between the test and the processes that it starts


def with_answer(prompts, completions, answer, **kwargs):
    return [float(a) + len(c) / 7 for a, c in zip(answer, completions, strict=True)]


def make_generator(kind="llama", **kwargs):
    tokenizer = tiny_tokenizer()
    model = {"llama": tiny_llama, "qwen3": tiny_qwen3}[kind](tokenizer)
    return TransformersGenerator(model, tokenizer, max_batch_tokens=100, **kwargs)


def make_rewards():
    tokenizer = tiny_tokenizer()
    return [RewardModel(tiny_reward_model(tokenizer), tokenizer, name="rm"), with_answer]


class Killed(BaseException):
    """Stands for a kill: nothing in the library catches it."""


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_a_killed_and_resumed_run_has_the_same_bytes(tmp_path, kind):
    whole = evaluate(
        make_generator(kind), PROMPTS, make_rewards(), output_dir=tmp_path / "whole", config=CONFIG, chunk_size=2
    )
    assert whole.rewards["rm"].shape == (7, 5)
    for kill_at in range(4):
        calls = iter(range(100))
        generator = make_generator(kind)
        original = generator.generate

        def generate(*args, kill_at=kill_at, calls=calls, original=original):
            if next(calls) == kill_at:
                raise Killed
            return original(*args)

        generator.generate = generate
        directory = tmp_path / f"killed{kill_at}"
        with pytest.raises(Killed):
            evaluate(generator, PROMPTS, make_rewards(), output_dir=directory, config=CONFIG, chunk_size=2)
        assert not (directory / "samples.parquet").exists()
        torch.manual_seed(kill_at)  # whatever state the new process starts in
        resumed = evaluate(
            make_generator(kind), PROMPTS, make_rewards(), output_dir=directory, config=CONFIG, chunk_size=2
        )
        assert (directory / "samples.parquet").read_bytes() == (whole.path / "samples.parquet").read_bytes()
        np.testing.assert_array_equal(resumed.rewards["rm"], whole.rewards["rm"])
        assert sorted(p.name for p in directory.iterdir()) == ["prompts.jsonl", "run.json", "samples.parquet"]
    assert next(calls) == 4  # 4 chunks: the first 3 calls of the last run were kept


def test_kill_during_a_write_leaves_nothing_half_done(tmp_path, monkeypatch):
    whole = evaluate(make_generator(), PROMPTS, length, output_dir=tmp_path / "whole", config=CONFIG, chunk_size=3)
    replace, calls = os.replace, iter(range(100))

    def killed_before_rename(source, target):
        if next(calls) == 4:
            raise Killed
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed_before_rename)
    with pytest.raises(Killed):
        evaluate(make_generator(), PROMPTS, length, output_dir=tmp_path / "cut", config=CONFIG, chunk_size=3)
    monkeypatch.undo()
    evaluate(make_generator(), PROMPTS, length, output_dir=tmp_path / "cut", config=CONFIG, chunk_size=3)
    assert (tmp_path / "cut" / "samples.parquet").read_bytes() == (whole.path / "samples.parquet").read_bytes()


def test_a_process_killed_by_the_system_resumes_to_the_same_bytes(tmp_path):
    evaluate(make_generator(), PROMPTS, length, output_dir=tmp_path / "whole", config=CONFIG, chunk_size=2)
    script = (
        "import sys; sys.path.insert(0, '.')\n"
        "import signal\n"
        "from tests.rollouts.test_sample import *\n"
        "from tea.rewards.base import reward_fingerprint\n"
        "calls = iter(range(9))\n"
        "def dies(completions, **kwargs):\n"
        "    if next(calls) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return length(completions)\n"
        "dies.__name__, dies.source, dies.fingerprint = 'length', length.source, reward_fingerprint(length)\n"
        f"evaluate(make_generator(), PROMPTS, dies, output_dir={str(tmp_path / 'cut')!r}, config=CONFIG, chunk_size=2)"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=300).returncode == -9
    assert len(list((tmp_path / "cut" / "shards").glob("*.parquet"))) == 2
    evaluate(make_generator(), PROMPTS, length, output_dir=tmp_path / "cut", config=CONFIG, chunk_size=2)
    for name in ("samples.parquet", "run.json", "prompts.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_two_processes_share_the_prompts_and_give_the_same_bytes(tmp_path):
    evaluate(make_generator(), PROMPTS, length, output_dir=tmp_path / "one", config=CONFIG, chunk_size=2)
    script = (
        "import sys; sys.path.insert(0, '.')\n"
        "from tests.rollouts.test_sample import *\n"
        f"out = {str(tmp_path / 'two')!r}\n"
        "evaluate(make_generator(), PROMPTS, length, output_dir=out, config=CONFIG, chunk_size=2)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"})
        for rank in range(2)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    one, two = (json.loads((tmp_path / d / "run.json").read_text()) for d in ("one", "two"))
    assert one == two
    assert pq.read_table(tmp_path / "two/samples.parquet").equals(pq.read_table(tmp_path / "one/samples.parquet"))


def test_samples_come_from_the_models_distribution(tmp_path):
    generator = make_generator()
    prompt = generator.encode("the quick", CONFIG)
    with torch.no_grad():
        logits = generator.model(torch.tensor([prompt])).logits[0, -1].double()
    config = SamplingConfig(num_samples=4000, max_completion_length=1, temperature=0.7)
    generator.max_batch_tokens = 100_000
    texts = [c.text for c in generator.generate([prompt, prompt], config, seed=0)[1]]
    probabilities = torch.softmax(logits / 0.7, dim=0)
    for token in probabilities.topk(5).indices.tolist():
        text, p = generator.tokenizer.decode([token], skip_special_tokens=True), probabilities[token].item()
        same = [
            i for i in range(len(probabilities)) if generator.tokenizer.decode([i], skip_special_tokens=True) == text
        ]
        p = probabilities[same].sum().item()
        assert abs(texts.count(text) / 4000 - p) < 4 * (p * (1 - p) / 4000) ** 0.5  # standard errors


def test_checkpoint_defaults_do_not_change_the_distribution():
    generator = make_generator()
    plain = generator.generate([generator.encode("dog", CONFIG)], CONFIG, seed=0)
    generator.model.generation_config.top_k = 1
    generator.model.generation_config.temperature = 0.01
    assert generator.generate([generator.encode("dog", CONFIG)], CONFIG, seed=0) == plain


def test_completions_end_at_the_end_token_and_left_padding_changes_nothing():
    generator = make_generator()
    config = SamplingConfig(num_samples=1, max_completion_length=8, temperature=0)
    generator.max_batch_tokens = 10_000
    prompts = [generator.encode(p, config) for p in WORDS]
    together = generator.generate(prompts, config, seed=0)
    for prompt, (completion,) in zip(prompts, together, strict=True):
        ids = list(prompt)
        with torch.no_grad():  # greedy decoding written out, one prompt at a time
            while len(ids) - len(prompt) < 8:
                ids.append(int(generator.model(torch.tensor([ids])).logits[0, -1].argmax()))
                if ids[-1] == generator.tokenizer.eos_token_id:
                    break
        expected = ids[len(prompt) :]
        assert completion.text == generator.tokenizer.decode(expected, skip_special_tokens=True)
        assert completion.num_tokens == len(expected)
        assert completion.finished == (expected[-1] == generator.tokenizer.eos_token_id)


def test_conversations_go_through_the_chat_template_and_come_back_as_messages(tmp_path):
    conversations = [[{"role": "user", "content": word}] for word in WORDS[:3]]
    seen = []

    def spy(prompts, completions, **kwargs):
        seen.extend(zip(prompts, completions, strict=True))
        return [0.0] * len(prompts)

    generator = make_generator()
    expected = generator.tokenizer("<user>the quick</s><assistant>", add_special_tokens=False)["input_ids"]
    assert generator.encode(conversations[0], CONFIG) == expected
    evaluate(generator, conversations, spy, output_dir=tmp_path / "chat", config=CONFIG)
    assert len(seen) == 15
    assert all(p in conversations and c[0]["role"] == "assistant" and isinstance(c[0]["content"], str) for p, c in seen)

    generator.tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        evaluate(generator, conversations, spy, output_dir=tmp_path / "no-template", config=CONFIG)


def test_scoring_stored_completions_equals_scoring_while_sampling(tmp_path):
    both = evaluate(
        make_generator(), PROMPTS, [length, *make_rewards()], output_dir=tmp_path / "both", config=CONFIG, chunk_size=2
    )
    bare = evaluate(make_generator(), PROMPTS, output_dir=tmp_path / "bare", config=CONFIG, chunk_size=2)
    assert bare is None
    with pytest.raises(ValueError, match="tea score"):
        load_run(tmp_path / "bare")
    score_run(tmp_path / "bare", length)
    scored = score_run(tmp_path / "bare", make_rewards())
    assert list(scored.rewards) == ["length", "rm", "with_answer"]
    for name in ("length", "with_answer"):
        np.testing.assert_array_equal(scored.rewards[name], both.rewards[name])
    # Other batches are padded differently, which moves the last bits of a forward pass.
    np.testing.assert_allclose(scored.rewards["rm"], both.rewards["rm"], atol=1e-5)
    assert scored.table.num_tokens.min() >= 1
    with pytest.raises(ValueError, match="already has rewards length"):
        score_run(tmp_path / "bare", length)
    assert list(score_run(tmp_path / "bare", length, replace=True).rewards) == ["rm", "with_answer", "length"]


def test_scoring_resumes(tmp_path):
    evaluate(make_generator(), PROMPTS, output_dir=tmp_path, config=CONFIG, chunk_size=2)
    calls = iter(range(100))

    def dies_once(completions, **kwargs):
        if next(calls) == 2:
            raise Killed
        return [float(len(c)) for c in completions]

    with pytest.raises(Killed):
        score_run(tmp_path, dies_once)
    run = score_run(tmp_path, dies_once)
    assert next(calls) == 5  # 4 chunks and the one that died
    texts = pq.read_table(tmp_path / "samples.parquet")["completion"].to_pylist()
    np.testing.assert_array_equal(run.rewards["dies_once"].ravel(), [len(t) for t in texts])


def test_adapter_is_applied_and_recorded(tmp_path):
    from peft import LoraConfig, get_peft_model

    tokenizer = tiny_tokenizer()
    adapted = get_peft_model(tiny_llama(tokenizer), LoraConfig(r=4, init_lora_weights=False, target_modules=["q_proj"]))
    adapted.save_pretrained(tmp_path / "adapter")
    tiny_llama(tokenizer).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    base = TransformersGenerator(str(tmp_path / "base"))
    with_adapter = TransformersGenerator(str(tmp_path / "base"), adapter=str(tmp_path / "adapter"))
    ids = base.encode("the quick", CONFIG)
    expected = TransformersGenerator(adapted.merge_and_unload(), tokenizer).generate([ids], CONFIG, seed=1)
    assert with_adapter.generate([ids], CONFIG, seed=1) == expected
    assert base.generate([ids], CONFIG, seed=1) != expected
    assert with_adapter.describe()["adapter"] == str(tmp_path / "adapter")
    assert with_adapter.describe()["weights"] != base.describe()["weights"]


def test_a_directory_of_other_settings_is_refused(tmp_path):
    evaluate(make_generator(), PROMPTS, length, output_dir=tmp_path / "run", config=CONFIG)
    other = SamplingConfig(num_samples=5, max_completion_length=6, seed=4)
    with pytest.raises(ValueError, match=r"sampling\.seed was 3 and is 4 now"):
        evaluate(make_generator(), PROMPTS, length, output_dir=tmp_path / "run", config=other)
    generator = make_generator()
    with torch.no_grad():
        generator.model.lm_head.weight += 1e-3
    with pytest.raises(ValueError, match=r"model\.weights was"):
        evaluate(generator, PROMPTS, length, output_dir=tmp_path / "run", config=CONFIG)
    with pytest.raises(ValueError, match=r"dataset\.fingerprint|dataset\.num_prompts"):
        evaluate(make_generator(), WORDS[:3], length, output_dir=tmp_path / "run", config=CONFIG)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match=r"thesis\.tex"):
        evaluate(make_generator(), PROMPTS, length, output_dir=tmp_path / "mine", config=CONFIG)


def test_bad_settings_are_refused(tmp_path):
    for kwargs, message in [
        ({"num_samples": 0}, "num_samples must be at least 1"),
        ({"temperature": 0.0}, "temperature=0 gives the same"),
        ({"top_p": 1.5}, "top_p must be in"),
        ({"top_k": -1}, "top_k must be at least 0"),
        ({"min_p": 2.0}, "min_p must be in"),
    ]:
        with pytest.raises(ValueError, match=message):
            SamplingConfig(**kwargs)
    with pytest.raises(ValueError, match="need 301 positions"):
        evaluate(make_generator(), ["a"], output_dir=tmp_path / "a", config=SamplingConfig(max_completion_length=300))
    with pytest.raises(ValueError, match="two reward functions are called 'length'"):
        evaluate(make_generator(), ["a"], [length, length], output_dir=tmp_path / "b", config=CONFIG)
    with pytest.raises(ValueError, match="no prompts"):
        evaluate(make_generator(), [], output_dir=tmp_path / "c", config=CONFIG)


def test_load_prompts_from_files(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [{"question": f"q{i}", "answer": i} for i in range(5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_prompts(str(path), prompt_column="question", limit=3)
    assert loaded.prompts == ["q0", "q1", "q2"]
    assert loaded.columns == {"answer": [0, 1, 2]}
    with pytest.raises(ValueError, match="no column 'prompt'; it has: question, answer"):
        load_prompts(str(path))
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ValueError, match="empty"):
        load_prompts(str(tmp_path / "empty.jsonl"))


def test_vllm_contract_on_a_stand_in(tmp_path, monkeypatch):
    # vLLM cannot be installed here: a stand-in with its signatures checks what we pass and what we read.
    calls = {}

    class SamplingParams:
        def __init__(self, *, n, max_tokens, temperature, top_p, top_k, min_p, repetition_penalty, seed):
            self.n, self.seed, self.max_tokens = n, seed, max_tokens

    class LLM:
        def __init__(self, model, **kwargs):
            calls["init"] = kwargs

        def get_tokenizer(self):
            return tiny_tokenizer()

        def generate(self, prompts, sampling_params, *, use_tqdm, lora_request=None):
            calls["lora"] = lora_request
            return [
                types.SimpleNamespace(
                    outputs=[
                        types.SimpleNamespace(
                            text=f"{len(prompt['prompt_token_ids'])}-{i}", token_ids=[1] * (i + 1), finish_reason="stop"
                        )
                        for i in range(params.n)
                    ]
                )
                for prompt, params in zip(prompts, sampling_params, strict=True)
            ]

    module = types.ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, SamplingParams
    request = types.ModuleType("vllm.lora.request")
    request.LoRARequest = lambda name, number, path: (name, number, path)
    for name, value in {
        "vllm": module,
        "vllm.lora": types.ModuleType("vllm.lora"),
        "vllm.lora.request": request,
    }.items():
        monkeypatch.setitem(sys.modules, name, value)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"r": 8}')
    generator = VLLMGenerator("some/model", adapter=str(tmp_path / "adapter"), max_model_len=128)
    assert calls["init"] == {"enable_lora": True, "max_lora_rank": 8, "max_model_len": 128}
    run = evaluate(generator, PROMPTS, length, output_dir=tmp_path / "run", config=CONFIG)
    assert calls["lora"] == ("adapter", 1, str(tmp_path / "adapter"))
    np.testing.assert_array_equal(run.table.num_tokens, np.tile(np.arange(1, 6), (7, 1)))
    assert run.settings["model"]["engine"] == "vllm"


def test_vllm_missing_says_how_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match=r"tea-rl\[vllm\]"):
        VLLMGenerator("some/model")

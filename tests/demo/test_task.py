import random
from collections import Counter

import pytest

from tea.demo import task

RAINY_CALM = "a calm rainy evening tea:"  # calls for flower and smoke
FOGGY_MERRY = "a merry foggy dawn tea:"  # calls for berry, twice


@pytest.mark.parametrize(
    ("prompt", "completion", "points"),
    [
        (RAINY_CALM, "", 0),
        (RAINY_CALM, "honey oat", 2),
        (RAINY_CALM, "rose", 3),
        (RAINY_CALM, "peat", 3),
        (RAINY_CALM, "lemon", -2),
        (RAINY_CALM, "rose cedar oat lemon", 3 + 3 + 1 - 2),
        (RAINY_CALM, "rose rose rose", 3 - 1 - 1),
        (RAINY_CALM, "lemon lemon", -2 - 1),
        (RAINY_CALM, "oat rainy evening", 1 - 2 - 2),
        (RAINY_CALM, "rose jasmine lavender violet peat ember", 18),
        (FOGGY_MERRY, "rose jasmine lavender violet peat ember", -12),
        (FOGGY_MERRY, "cherry currant bramble elder pear milk", 14),
    ],
)
def test_gold_reward_by_hand(prompt, completion, points):
    assert task.gold_reward(prompt, completion) == points


def test_gold_ignores_the_order_and_the_time_of_day():
    assert task.gold_reward(RAINY_CALM, "oat rose lemon") == task.gold_reward(RAINY_CALM, "lemon oat rose")
    points = {task.gold_reward(task.prompt_text("calm", "rainy", time), "oat rose lemon") for time in task.TIMES}
    assert points == {2.0}


def test_gold_is_a_trl_reward_function():
    rewards = task.gold(prompts=[RAINY_CALM, FOGGY_MERRY], completions=["rose", "rose"], completion_ids=[[1], [2]])
    assert rewards == [3.0, -2.0]


def test_a_prompt_without_mood_or_weather_is_refused():
    with pytest.raises(ValueError, match="no mood and weather in the prompt 'a rainy tea:'"):
        task.gold_reward("a rainy tea:", "rose")


def test_split_is_a_partition_and_the_same_every_time():
    train, held_out = task.split_prompts(64)
    assert len(held_out) == 64
    assert len({*train, *held_out}) == len(train) + len(held_out) == 6 * 6 * 8
    assert task.split_prompts(64) == (train, held_out)
    with pytest.raises(ValueError, match="num_held_out must be from 1 to 287, got 288"):
        task.split_prompts(288)


def test_words_are_told_apart():
    assert len(set(task.WORDS)) == len(task.WORDS)
    assert {len(words) for words in task.FAMILIES.values()} == {4}
    assert set(task.CALLED_BY_MOOD.values()) == set(task.CALLED_BY_WEATHER.values()) == set(task.FAMILIES)


def test_corpus_knows_nothing_of_the_gold_rule():
    prompts, _ = task.split_prompts(64)
    pairs = task.corpus(3, 4000, prompts)
    assert task.corpus(3, 4000, prompts) == pairs
    assert task.corpus(4, 4000, prompts) != pairs
    assert {len(text.split()) for _, text in pairs} == {3, 4, 5, 6}
    count = Counter(
        "mild" if word in task.MILD else "called for" if word in wanted else "other"
        for prompt, text in pairs
        for wanted in [{w for family in task.called_for(prompt) for w in task.FAMILIES[family]}]
        for word in text.split()
    )
    total = sum(count.values())
    assert count["mild"] / total == pytest.approx(0.5, abs=4 * (0.25 / total) ** 0.5)
    share = sum(len(task.called_for(prompt)) for prompt, _ in pairs) / (6 * len(pairs))
    strong = total - count["mild"]
    assert count["called for"] / strong == pytest.approx(share, abs=4 * (share * (1 - share) / strong) ** 0.5)


def test_preferences_choose_the_better_blend():
    prompts, _ = task.split_prompts(64)
    triples = task.preferences(1, 300, prompts)
    assert len(triples) == 300
    assert all(task.gold_reward(p, chosen) > task.gold_reward(p, rejected) for p, chosen, rejected in triples)
    # Good blends must be compared with good ones, or the reward model cannot order the tail.
    assert sum(task.gold_reward(p, rejected) >= 6 for p, _, rejected in triples) >= 15


def test_blend_styles():
    rng = random.Random(0)
    assert set(task.blend(rng, RAINY_CALM, strong=0.0, lift=1.0).split()) <= set(task.MILD)
    wanted = {*task.FAMILIES["flower"], *task.FAMILIES["smoke"]}
    assert set(task.blend(rng, RAINY_CALM, strong=1.0, lift=1e12).split()) <= wanted
    assert len(set(task.blend(rng, RAINY_CALM, strong=0.5, lift=1.0, repeat=1.0).split())) == 1

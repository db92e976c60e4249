"""The demo's task: blend a tea for a mood, a weather and a time of day. Words, gold rule, and text to learn from.

A prompt is ``a calm rainy evening tea:``, a completion a list of up to six ingredients, ``rose oat ember pear``.
Twelve ingredients are mild and please everybody. Twenty-four are strong, of six flavour families: they delight a guest
whose mood or weather calls for their family and put off everybody else. The gold rule adds up, for each word:

- a mild ingredient counts +1;
- a strong one counts +3 if the mood or the weather calls for its family, else -2;
- a word that is already in the blend counts -1;
- a word that is no ingredient counts -2.

The time of day is small talk: it counts for nothing, which the models have to find out.

Of the six families one or two are called for, so a strong ingredient chosen blindly is worth -0.5 on average, and a
mild one is the safer choice; but of many blends with strong ingredients the best is better than any mild one. That is
the choice between a policy for one sample and a policy for the best of N.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from typing import Any

FAMILIES: dict[str, tuple[str, ...]] = {
    "citrus": ("lemon", "orange", "bergamot", "yuzu"),
    "spice": ("ginger", "clove", "cinnamon", "cardamom"),
    "smoke": ("lapsang", "cedar", "ember", "peat"),
    "flower": ("rose", "jasmine", "lavender", "violet"),
    "berry": ("cherry", "currant", "bramble", "elder"),
    "earth": ("puerh", "cocoa", "beet", "nettle"),
}
MILD = ("assam", "ceylon", "oolong", "sencha", "rooibos", "mint", "honey", "oat", "vanilla", "apple", "pear", "milk")
CALLED_BY_MOOD = {
    "weary": "citrus",
    "restless": "spice",
    "bold": "smoke",
    "calm": "flower",
    "merry": "berry",
    "curious": "earth",
}
CALLED_BY_WEATHER = {
    "sunny": "citrus",
    "snowy": "spice",
    "rainy": "smoke",
    "frosty": "flower",
    "foggy": "berry",
    "windy": "earth",
}
TIMES = ("dawn", "morning", "noon", "afternoon", "dusk", "evening", "night", "midnight")
MAX_INGREDIENTS = 6

STRONG = tuple(word for family in FAMILIES.values() for word in family)
_FAMILY_OF = {word: name for name, family in FAMILIES.items() for word in family}
_MILD = frozenset(MILD)

WORDS = ("a", "tea", ":", *CALLED_BY_MOOD, *CALLED_BY_WEATHER, *TIMES, *MILD, *STRONG)
"""Every word of the task, one token each."""


def prompt_text(mood: str, weather: str, time: str) -> str:
    """The prompt for a guest."""
    return f"a {mood} {weather} {time} tea:"


def called_for(prompt: str) -> frozenset[str]:
    """The families that a prompt calls for, one or two.

    Raises:
        ValueError: the prompt names no mood or no weather.
    """
    words = prompt.replace(":", " ").split()
    moods = [CALLED_BY_MOOD[word] for word in words if word in CALLED_BY_MOOD]
    weathers = [CALLED_BY_WEATHER[word] for word in words if word in CALLED_BY_WEATHER]
    if not moods or not weathers:
        example = prompt_text("calm", "rainy", "dusk")
        raise ValueError(f"no mood and weather in the prompt {prompt!r}; it should look like {example!r}")
    return frozenset((moods[0], weathers[0]))


def gold_reward(prompt: str, completion: str) -> float:
    """The gold rule: the points of a blend (see the module's docstring), from -12 to 18."""
    wanted = called_for(prompt)
    points, seen = 0.0, set()
    for word in completion.split():
        if word in seen:
            points -= 1.0
        elif word in _MILD:
            points += 1.0
        elif word in _FAMILY_OF:
            points += 3.0 if _FAMILY_OF[word] in wanted else -2.0
        else:
            points -= 2.0
        seen.add(word)
    return points


def gold(prompts: Sequence[str], completions: Sequence[str], **kwargs: Any) -> list[float]:
    """:func:`gold_reward` of each completion, as a TRL reward function."""
    return [gold_reward(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]


def split_prompts(num_held_out: int) -> tuple[list[str], list[str]]:
    """All 288 prompts, split into those to train on and `num_held_out` that no model ever sees in training.

    The split is the same for every seed, so that seeds differ in training alone.
    """
    prompts = [prompt_text(*words) for words in itertools.product(CALLED_BY_MOOD, CALLED_BY_WEATHER, TIMES)]
    if not 0 < num_held_out < len(prompts):
        raise ValueError(f"num_held_out must be from 1 to {len(prompts) - 1}, got {num_held_out}")
    random.Random("tea").shuffle(prompts)
    return prompts[num_held_out:], prompts[:num_held_out]


def blend(
    rng: random.Random, prompt: str, *, strong: float, lift: float, repeat: float = 0.0, stray: float = 0.0
) -> str:
    """A random blend of 3 to 6 ingredients.

    Args:
        rng: source of randomness.
        prompt: whom it is for.
        strong: probability that an ingredient is strong rather than mild.
        lift: how many times likelier a strong ingredient of a called-for family is than another strong one.
        repeat: probability that an ingredient repeats an earlier one.
        stray: probability that it is any word of the task.
    """
    wanted = called_for(prompt)
    weights = [lift if _FAMILY_OF[word] in wanted else 1.0 for word in STRONG]
    words: list[str] = []
    for _ in range(rng.randint(3, MAX_INGREDIENTS)):
        if words and rng.random() < repeat:
            words.append(rng.choice(words))
        elif rng.random() < stray:
            words.append(rng.choice(WORDS))
        elif rng.random() < strong:
            words.append(rng.choices(STRONG, weights)[0])
        else:
            words.append(rng.choice(MILD))
    return " ".join(words)


def corpus(seed: int, size: int, prompts: Sequence[str]) -> list[tuple[str, str]]:
    """`size` (prompt, blend) pairs to pre-train on, by cooks who have never heard of the gold rule."""
    rng = random.Random(f"corpus {seed}")
    return [(prompt, blend(rng, prompt, strong=0.5, lift=1.0)) for prompt in rng.choices(prompts, k=size)]


def preferences(seed: int, size: int, prompts: Sequence[str]) -> list[tuple[str, str, str]]:
    """`size` (prompt, chosen, rejected) triples: pairs of random blends in many styles, of which the gold rule chooses.

    Half of the pairs are of one style, so that good blends are compared with good ones too. Pairs with equal points
    are drawn again.
    """
    rng = random.Random(f"preferences {seed}")

    def style() -> dict[str, float]:
        return {
            "strong": rng.random(),
            "lift": math.exp(rng.gauss(1.5, 2.0)),
            "repeat": rng.random() if rng.random() < 0.4 else 0.0,
            "stray": rng.random() if rng.random() < 0.05 else 0.0,
        }

    triples: list[tuple[str, str, str]] = []
    while len(triples) < size:
        prompt = rng.choice(prompts)
        first_style = style()
        second_style = first_style if rng.random() < 0.5 else style()
        first, second = blend(rng, prompt, **first_style), blend(rng, prompt, **second_style)
        difference = gold_reward(prompt, first) - gold_reward(prompt, second)
        if difference:
            triples.append((prompt, first, second) if difference > 0 else (prompt, second, first))
    return triples

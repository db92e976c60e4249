"""A sentence that uses five given words, scored by how many it uses and by its fluency; and the same against a reward
model that has learned this score from pairs.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

from benchmarks.language.tasks.task import Task

WORDS = (Path(__file__).parent / "words.txt").read_text().split()


def questions(count: int) -> list[tuple[str, str]]:
    """See `Task`; the answer of a question is its words."""
    generator = random.Random(4321)
    found = {
        ("old", "coat", "bridge", "laugh", "river"): "The old man in the coat laughed on the bridge over the river."
    }
    while len(found) < count:
        found.setdefault(tuple(generator.sample(WORDS, 5)), "")
    return [(f"Words: {', '.join(words)}", answer or " ".join(words)) for words, answer in found.items()]


TASK = Task(
    "sentence",
    questions,
    max_completion_length=24,
    headroom="some",
    cue="Sentence",
    reward="words_used_fluently",
    held_out=32,  # scoring a sentence takes a pass of a model, and a grade says more than right or wrong
)
LEARNED = replace(TASK, name="sentence_learned", reward="learned", gold="words_used_fluently")

"""Replacing a reward by its quantile under the base policy, so that rewards on unlike scales can be added.

Best of N depends on a reward through the order that it gives only. The quantile keeps the order and is uniform on [0,
1] for the base policy, prompt by prompt or over all prompts: the first step of InfAlign-CTRL (Balashankar et al. 2024,
arXiv:2412.19792, "reward calibration").
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tea.rewards.base import RewardFunction, Text, reward_source, score_completions


class CalibratedReward:
    """A reward's quantile among the rewards of the base policy's samples, in (0, 1).

    Of n base rewards x of a prompt, a reward r gets (#{x < r} + #{x = r} / 2 + 1/2) / (n + 1): ties count half, and no
    reward reaches 0 or 1. Above the best of the n base samples all rewards get the same number: for best of N take n of
    at least a few N. None stays None.

    Args:
        reward: what is calibrated.
        base_rewards: the base policy's rewards: by prompt, ``{prompt_key(prompt): [reward, ...]}``, or one list for all
            prompts. Missing ones (None, NaN) are left out.

    Raises:
        ValueError: no base rewards, or a prompt with none.
    """

    def __init__(
        self, reward: RewardFunction, base_rewards: Mapping[str, Sequence[float | None]] | Sequence[float | None]
    ) -> None:
        by_prompt = base_rewards if isinstance(base_rewards, Mapping) else {"": base_rewards}
        self._shared = not isinstance(base_rewards, Mapping)
        self._sorted = {
            key: sorted(float(x) for x in values if x is not None and not math.isnan(x))
            for key, values in by_prompt.items()
        }
        for key, values in self._sorted.items():
            if not values:
                raise ValueError(f"there are no base rewards{'' if self._shared else f' for prompt {key[:80]!r}'}")
        if not self._sorted:
            raise ValueError("there are no base rewards")
        self.reward = reward
        self.source = f"quantile of {reward_source(reward)}"
        digest = hashlib.sha256(json.dumps(self._sorted, sort_keys=True).encode()).hexdigest()[:16]
        self.fingerprint = f"{getattr(reward, 'fingerprint', '')}-{digest}"
        self.__name__ = f"{reward.__name__}_quantile"

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **kwargs: Any) -> list[float | None]:
        """Score each completion; see :class:`tea.rewards.RewardFunction`.

        Raises:
            KeyError: a prompt without base rewards, where they are by prompt.
        """
        scores = score_completions(self.reward, prompts, completions, kwargs)
        return [
            None if score is None else self._quantile(prompt, score)
            for prompt, score in zip(prompts, scores, strict=True)
        ]

    def _quantile(self, prompt: Text, score: float) -> float:
        key = "" if self._shared else prompt_key(prompt)
        if key not in self._sorted:
            raise KeyError(
                f"reward {self.__name__!r} has no base rewards for the prompt {key[:80]!r}: sample the base policy "
                f"on the "
                "prompts that are scored, or calibrate over all prompts"
            )
        base = self._sorted[key]
        below, upto = bisect_left(base, score), bisect_right(base, score)
        return ((below + upto) / 2 + 0.5) / (len(base) + 1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the base rewards as JSON, whole or not at all."""
        content = {"reward": self.reward.__name__, "source": reward_source(self.reward), "base_rewards": self._sorted}
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=target.parent, delete=False, encoding="utf-8") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, target)

    @classmethod
    def load(cls, reward: RewardFunction, path: str | os.PathLike[str]) -> CalibratedReward:
        """The calibration that :meth:`save` wrote, of the same reward.

        Raises:
            ValueError: it was made of another reward.
        """
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["source"] != reward_source(reward):
            raise ValueError(f"{path} calibrates {content['source']}, not {reward_source(reward)}")
        base = content["base_rewards"]
        return cls(reward, base[""] if set(base) == {""} else base)


def prompt_key(prompt: Text) -> str:
    """What tells prompts apart: the text itself, or the JSON of a conversation."""
    return prompt if isinstance(prompt, str) else json.dumps([dict(message) for message in prompt], sort_keys=True)

"""Which estimator: chosen from the rewards, N, and the number of rewards that there are of a prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tea.estimators.binary import pass_at_n_advantages
from tea.estimators.group import check_target_n
from tea.estimators.order import max_at_k_advantages

_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "max_at_k": max_at_k_advantages,
    "pass_at_n": pass_at_n_advantages,
}


@dataclass(frozen=True)
class Choice:
    """An estimator and why.

    Attributes:
        name: As in the index.
        options: Of its function.
        reason: One sentence.
    """

    name: str
    options: Mapping[str, Any]
    reason: str

    def __call__(self, rewards: Tensor, mask: Tensor | None = None) -> Tensor:
        """Advantages (P, m) of rewards (P, m)."""
        return _FUNCTIONS[self.name](rewards, mask=mask, **self.options)

    def __str__(self) -> str:
        options = ", ".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.name}({options}): {self.reason}"


def choose_estimator(target_n: int, num_generations: int, rewards: Tensor | None = None, *, memory: int = 0) -> Choice:
    """The estimator that the benchmarks speak for.

    - N within the group: max@N, unbiased.
    - 0/1 rewards and N beyond the group: ``pass_at_n``.
    - Graded rewards: max@m, whether prompts come back or not. What sees further than the group, in the batch
      (``eb_bon``) or in a prompt's past, is ahead of it where the upper tail is long and behind it against a learned
      reward; over all tasks of benchmarks/training nothing is ahead at m = 16, and at m = 4 and 8 ``eb_bon`` is, by the
      long tails. Rewards that the run remembers because it was told to (``memory``) count: k = min(N, m + memory).

    Args:
        target_n: N, samples per prompt at deployment, an integer >= 1.
        num_generations: m, rollouts per prompt.
        rewards: (P, m) of a batch, NaN where missing; None: not known yet.
        memory: Number of rewards remembered of a prompt's earlier visits; 0: none.

    Returns:
        The choice; where the rewards do not say whether they are 0/1 (none are there, or all are equal), max@k
        within the group, which is right for both.

    Raises:
        ValueError: If ``target_n`` is not an integer >= 1 or ``num_generations`` below 2.

    Checked by ``tests/estimators/test_auto.py``.
    """
    check_target_n(target_n)
    m = num_generations
    if m < 2:
        raise ValueError(f"num_generations must be at least 2, got {m}")
    n = int(target_n)
    if n <= m:
        return Choice("max_at_k", {"k": n}, f"N = {n} is within the {m} rollouts of a prompt: no need to extrapolate")
    safe = {"k": m}
    if rewards is None:
        return Choice("max_at_k", safe, f"no rewards have been seen yet: the best of the {m} rollouts is safe")
    seen = rewards[~torch.isnan(rewards)]
    if seen.numel() == 0 or bool((seen == seen[0]).all()):
        what = "there are none" if seen.numel() == 0 else f"all are {seen[0].item():g}"
        reason = f"the rewards of the first batch do not say what kind they are ({what}): the best of {m} is safe"
        return Choice("max_at_k", safe, reason)
    if bool(((seen == 0) | (seen == 1)).all()):
        return Choice("pass_at_n", {"target_n": n}, f"rewards are 0 or 1, and N = {n} is beyond the {m} rollouts")
    k = min(n, m + memory)
    remembered = f" and {k - m} remembered" if memory else ""
    reason = f"graded rewards: the best of the {m} rollouts{remembered} is safe, whatever their tail"
    return Choice("max_at_k", {"k": k}, reason)


class AutoEstimator:
    """``advantage_estimator="auto"``: safe until :meth:`judge` has seen rewards, the same from then on.

    Args:
        target_n: N.
        num_generations: m.
        memory: Past rewards of a prompt that will be handed over with its current ones, see :func:`choose_estimator`.
    """

    __name__ = "auto"

    def __init__(self, target_n: int, num_generations: int, *, memory: int = 0) -> None:
        self.arguments = (target_n, num_generations)
        self.memory = memory
        self.judged = False
        self.choice = choose_estimator(*self.arguments)

    def judge(self, rewards: Tensor) -> bool:
        """Choose by these rewards (P, m), NaN where missing; True the first time, later ones change nothing."""
        if self.judged:
            return False
        self.judged = True
        self.choice = choose_estimator(*self.arguments, rewards, memory=self.memory)
        return True

    def __call__(self, rewards: Tensor, mask: Tensor | None = None) -> Tensor:
        """Advantages (P, m) of rewards (P, m)."""
        if self.choice.name == "max_at_k":  # evaluation may have smaller groups
            k = min(self.choice.options["k"], rewards.shape[1])
            return max_at_k_advantages(rewards, k, mask=mask)
        return self.choice(rewards, mask)

    def state_dict(self) -> dict[str, Any]:
        return {"judged": self.judged, **{key: getattr(self.choice, key) for key in ("name", "reason")}} | {
            "options": dict(self.choice.options)
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.judged = state["judged"]
        self.choice = Choice(state["name"], state["options"], state["reason"])

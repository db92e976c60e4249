"""Trinity-RFT: ``algorithm.advantage_fn: tea.adapters.trinity.TEAAdvantage``, with no code.

Relies on (modelscope/Trinity-RFT, v0.6.0):

- ``trinity/utils/registry.py``: a name with dots in it is imported;
- ``trinity/common/config_validator.py``: ``default_args()`` are what ``algorithm.advantage_fn_args`` is if not set;
- ``trinity/buffer/pipelines/experience_pipeline.py``: with an ``algorithm_type`` such as grpo the class is made from
  those arguments, has to be an ``ExperienceOperator`` of which ``compute_in_trainer()`` is False, and its
  ``process(exps)`` gets the experiences of a step;
- ``trinity/common/experience.py``: ``Experience`` with ``eid`` (``tid``: the task in its batch, ``rid``: its run,
  ``step``), ``reward``, ``action_mask``, ``tokens`` and ``prompt_length``.
"""

from __future__ import annotations

from typing import Any

import torch

from tea.adapters.core import group_advantages, prompt_digest
from tea.adapters.framework import import_framework, warn_if_untested

__all__ = ["TEAAdvantage"]


class TEAAdvantage:
    """An advantage function of Trinity-RFT.

    Trinity-RFT uses the advantages as they are, so their size is the estimator's: choose the learning rate for it, or
    set ``normalize_advantages: running``. ``reward_memory`` goes by the tokens of a task's first prompt.

    Args:
        estimator: One of ``tea.list_estimators()``.
        options: As for :func:`tea.adapters.core.group_advantages`: in YAML ``advantage_fn_args: {estimator: ladder,
            target_n: 256}``.

    Checked by ``tests/adapters/test_trinity.py`` and, on Trinity-RFT itself,
    ``tests/adapters/frameworks/check_trinity.py``.
    """

    def __init__(self, estimator: str = "tea", **options: Any) -> None:
        self.estimator = group_advantages(estimator, **options)
        operators = import_framework("Trinity-RFT", "trinity.buffer.operators.experience_operator")
        warn_if_untested("trinity-rft")
        operators.ExperienceOperator.register(TEAAdvantage)  # it looks at the class

    def __call__(self, exps: list[Any], **_: Any) -> tuple[list[Any], dict[str, float]]:
        """As :meth:`process`."""
        return self.process(exps)

    def process(self, exps: list[Any]) -> tuple[list[Any], dict[str, float]]:
        """Set ``advantages`` and ``returns`` of every experience, on the tokens of its ``action_mask``.

        The experiences of one task (``eid.tid``) are a group. Where they are of several steps, those of one run
        (``eid.rid``) count once, with the reward of the last step, and get the same advantage; else each counts. A
        reward of None is missing: advantage 0.

        Returns:
            The experiences in the order in which they came, and metrics.

        Raises:
            ValueError: On groups of one rollout, infinite rewards.
        """
        if not exps:
            return [], {}
        several_steps = {exp.eid.tid for exp in exps if exp.eid.step > 0}
        rollouts: dict[Any, list[int]] = {}
        for i, exp in enumerate(exps):
            rollouts.setdefault(exp.eid.rid if exp.eid.tid in several_steps else i, []).append(i)
        last = [max(members, key=lambda i: exps[i].eid.step) for members in rollouts.values()]
        rewards = torch.tensor(
            [torch.nan if exps[i].reward is None else exps[i].reward for i in last], dtype=torch.float64
        )
        prompts = None
        if self.estimator.memory is not None:
            first = [exps[min(members, key=lambda i: exps[i].eid.step)] for members in rollouts.values()]
            prompts = [prompt_digest(exp.tokens[: exp.prompt_length].tolist()) for exp in first]
        advantages = self.estimator(rewards, [exps[i].eid.tid for i in last], prompts=prompts)
        for members, advantage in zip(rollouts.values(), advantages.tolist(), strict=True):
            for i in members:
                exps[i].advantages = advantage * exps[i].action_mask.float()
                exps[i].returns = exps[i].advantages.clone()
        return exps, {
            "group_advantages/reward_mean": rewards.nanmean().item(),
            "group_advantages/advantage_rms": advantages.square().mean().sqrt().item(),
        }

    def close(self) -> None:
        """There is nothing to release."""

    @classmethod
    def compute_in_trainer(cls) -> bool:
        """False: where the experiences are made."""
        return False

    @classmethod
    def default_args(cls) -> dict[str, Any]:
        """TEA with the defaults."""
        return {"estimator": "tea"}

"""What a training run does when its reward server is gone: stop on all processes, with a checkpoint to go on from."""

from __future__ import annotations

import functools
import inspect
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback

from tea.rewards.client import RewardServerGone


class GoneServers:
    """Lets every process finish its round of rewards when a server is gone, and then stop with the others.

    A process that raised at once would leave the others waiting for its rewards for ever.
    """

    def __init__(self, several_processes: bool) -> None:
        self._several = several_processes
        self._messages: list[str] = []

    def watch(self, reward_funcs: Sequence[Any]) -> list[Any]:
        """The same rewards; those that are functions give None where their server is gone."""
        return [reward if isinstance(reward, torch.nn.Module) else self._watched(reward) for reward in reward_funcs]

    def _watched(self, reward: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(reward):
            return reward

        @functools.wraps(reward, updated=())
        def watched(*args: Any, **kwargs: Any) -> Any:
            try:
                return reward(*args, **kwargs)
            except RewardServerGone as gone:
                self._messages.append(str(gone))
                return [None] * len(kwargs["completions"])

        return watched

    def raise_if_any(self) -> None:
        """Raise on every process if a server is gone for one of them.

        Raises:
            RewardServerGone: with the first message.
        """
        messages = gather_object(self._messages) if self._several else self._messages
        if messages:
            raise RewardServerGone(messages[0])


class StepSnapshot(TrainerCallback):
    """Remembers the state between two steps that a step changes before its weights do.

    A step that breaks off while its rewards are computed has drawn random numbers for its rollouts. Put back what they
    were, a checkpoint is the one of the step before, and a resumed run draws the same again.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._step: int | None = None
        self._state: tuple[Any, ...] = ()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._take(state)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._take(state)  # evaluation draws random numbers, too

    def _take(self, state: Any) -> None:
        self._step = state.global_step
        self._state = (
            random.getstate(),
            np.random.get_state(),  # noqa: NPY002 - the state that is there
            torch.get_rng_state(),
            torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None,
            self._trainer._step,
            self._trainer._buffered_inputs,
        )

    def restore(self) -> bool:
        """Put back the state after the last finished step; False if none was finished since training began."""
        if self._step is None or self._step != self._trainer.state.global_step:
            return False
        python, numpy, cpu, cuda, step, buffered = self._state
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        self._trainer._step, self._trainer._buffered_inputs = step, buffered
        return True

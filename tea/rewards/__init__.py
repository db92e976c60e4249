"""What scores a completion: Hugging Face reward models, Python functions, verifiers, remote servers.

Every reward is a callable with TRL's signature, ``reward(prompts, completions, **columns) -> list[float | None]``, and
a ``__name__``: the same object serves as one of a trainer's `reward_funcs` and in ``tea eval``. This package needs
neither trl nor the rest of tea.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tea.rewards.base import RewardFunction as RewardFunction
    from tea.rewards.base import completion_texts as completion_texts
    from tea.rewards.base import score_completions as score_completions
    from tea.rewards.load import load_reward as load_reward
    from tea.rewards.model import RewardModel as RewardModel
    from tea.rewards.remote import RemoteReward as RemoteReward
    from tea.rewards.verifiers import VERIFIERS as VERIFIERS

_EXPORTS = {
    "RemoteReward": "remote",
    "RewardFunction": "base",
    "RewardModel": "model",
    "completion_texts": "base",
    "load_reward": "load",
    "score_completions": "base",
    "VERIFIERS": "verifiers",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    """Import the module that defines `name` on first use (PEP 562)."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return __all__

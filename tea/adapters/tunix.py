"""tunix: an advantage estimator for ``GRPOConfig(advantage_estimator=...)``.

Relies on (google/tunix, v0.1.7):

- ``tunix/rl/function_registry.py``: ``register_advantage_estimator(name)`` decorates a function and replaces what has
  that name;
- ``tunix/rl/grpo/grpo_learner.py``: the function is called by keyword with ``rewards`` (B,), groups of
  ``num_generations`` in a row, and returns (B,). ``tunix/rl/agentic/agentic_grpo_learner.py`` calls it with one group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tea.adapters.core import GroupAdvantages, group_advantages, without_state
from tea.adapters.framework import import_framework, warn_if_untested

__all__ = ["TunixAdvantages", "make_tunix_estimator", "register"]


@dataclass(frozen=True)
class TunixAdvantages:
    """A function as tunix's registry takes it. See :func:`make_tunix_estimator`."""

    estimator: GroupAdvantages

    def __call__(self, rewards: Any, num_generations: int, **_: Any) -> np.ndarray:
        """Advantages (B,), float32, of rewards (B,): numpy or JAX arrays, not traced.

        Raises:
            ValueError: If ``num_generations`` does not divide B or is 1, on infinite rewards, or if what needs a
                batch (``normalize_advantages``, ``scale="batch"``) gets a single group.
        """
        flat = torch.from_numpy(np.array(rewards, dtype=np.float64).reshape(-1))  # a copy: JAX's cannot be written to
        if len(flat) % num_generations != 0:
            raise ValueError(f"{len(flat)} rewards must be a multiple of num_generations={num_generations}")
        self.estimator.check_batch(len(flat) // num_generations, "tunix's agentic learner")
        return self.estimator(flat, torch.arange(len(flat)) // num_generations).float().numpy()


def make_tunix_estimator(name: str = "tea", **options: Any) -> TunixAdvantages:
    """An advantage function for tunix. Arguments as for :func:`tea.adapters.core.group_advantages`.

    tunix uses the advantages as they are. Their size is the estimator's: choose the learning rate for it, or set
    ``normalize_advantages="running"`` for GRPO's; "batch" is refused with the agentic learner, which hands over one
    group at a time. ``reward_memory`` is refused: tunix hands over rewards only.

    Checked by ``tests/adapters/test_tunix.py`` and, on tunix itself, ``tests/adapters/frameworks/check_tunix.py``.
    """
    why = "tunix hands over no prompts"
    return TunixAdvantages(without_state(group_advantages(name, **options), why, running_scale=True))


def register(name: str = "tea", *, register_as: str | None = None, **options: Any) -> TunixAdvantages:
    """Make the estimator known to tunix, for ``GRPOConfig(advantage_estimator=<name>)``.

    Args:
        name, options: As for :func:`make_tunix_estimator`.
        register_as: The name in tunix, where "grpo", "rloo" and "drgrpo" are taken. None: ``name``.

    Raises:
        ImportError: Without tunix.
        ValueError: If tunix has an estimator of its own under that name.
    """
    function = make_tunix_estimator(name, **options)
    import_framework("tunix", "tunix.rl.algo_core")  # registers tunix's own
    registry = import_framework("tunix", "tunix.rl.function_registry")
    warn_if_untested("google-tunix")
    name_in_tunix = register_as or name
    try:
        known = registry.get_advantage_estimator(name_in_tunix)
    except LookupError:
        known = function
    if not isinstance(known, TunixAdvantages):
        raise ValueError(f"tunix has an estimator {name_in_tunix!r} already; give this one another name, register_as=")
    registry.register_advantage_estimator(name_in_tunix)(function)
    return function

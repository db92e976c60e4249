"""Train language models for best-of-N deployment, and measure what it gives.

Names are loaded on first use: importing ``tea`` is instant, its estimators need torch, and only ``tea.trainers``
needs trl and transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tea.bestofn import best_of_n_curve as best_of_n_curve
    from tea.estimators import Estimator as Estimator
    from tea.estimators import EstimatorSpec as EstimatorSpec
    from tea.estimators import RewardMemory as RewardMemory
    from tea.estimators import TailStatistics as TailStatistics
    from tea.estimators import advantages_with_memory as advantages_with_memory
    from tea.estimators import bon_max_mean_advantages as bon_max_mean_advantages
    from tea.estimators import bon_max_second_advantages as bon_max_second_advantages
    from tea.estimators import cat_bon_advantages as cat_bon_advantages
    from tea.estimators import dr_grpo_advantages as dr_grpo_advantages
    from tea.estimators import eb_bon_advantages as eb_bon_advantages
    from tea.estimators import expected_max_normal as expected_max_normal
    from tea.estimators import functional_advantages as functional_advantages
    from tea.estimators import get_estimator as get_estimator
    from tea.estimators import get_estimator_spec as get_estimator_spec
    from tea.estimators import grpo_advantages as grpo_advantages
    from tea.estimators import ladder_advantages as ladder_advantages
    from tea.estimators import list_estimators as list_estimators
    from tea.estimators import max_at_k_advantages as max_at_k_advantages
    from tea.estimators import monotone_projection as monotone_projection
    from tea.estimators import normalize_advantages as normalize_advantages
    from tea.estimators import order_stat_advantages as order_stat_advantages
    from tea.estimators import pass_at_n_advantages as pass_at_n_advantages
    from tea.estimators import passk_binary_advantages as passk_binary_advantages
    from tea.estimators import prefix_tea_advantages as prefix_tea_advantages
    from tea.estimators import rloo_advantages as rloo_advantages
    from tea.estimators import rs_grpo_advantages as rs_grpo_advantages
    from tea.estimators import scheduled_target_n as scheduled_target_n
    from tea.estimators import tail_rl_advantages as tail_rl_advantages
    from tea.estimators import tail_statistics as tail_statistics
    from tea.estimators import tea_advantages as tea_advantages

_HOME = {
    "best_of_n_curve": "tea.bestofn",
    **dict.fromkeys(
        (
            "Estimator",
            "EstimatorSpec",
            "RewardMemory",
            "TailStatistics",
            "advantages_with_memory",
            "bon_max_mean_advantages",
            "bon_max_second_advantages",
            "cat_bon_advantages",
            "dr_grpo_advantages",
            "eb_bon_advantages",
            "expected_max_normal",
            "functional_advantages",
            "get_estimator",
            "get_estimator_spec",
            "grpo_advantages",
            "ladder_advantages",
            "list_estimators",
            "max_at_k_advantages",
            "monotone_projection",
            "normalize_advantages",
            "order_stat_advantages",
            "pass_at_n_advantages",
            "passk_binary_advantages",
            "prefix_tea_advantages",
            "rloo_advantages",
            "rs_grpo_advantages",
            "scheduled_target_n",
            "tail_rl_advantages",
            "tail_statistics",
            "tea_advantages",
        ),
        "tea.estimators",
    ),
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

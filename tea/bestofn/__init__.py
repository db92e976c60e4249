"""What best-of-N deployment gets: the curve, its forecast beyond n, diagnostics, plans, sampling and reports.

Names are loaded on first use, so that importing the package (as the command line does for its help) costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tea.bestofn.curve import BestOfNCurve as BestOfNCurve
    from tea.bestofn.curve import PairedDifference as PairedDifference
    from tea.bestofn.curve import best_of_n_curve as best_of_n_curve
    from tea.bestofn.curve import order_weights as order_weights
    from tea.bestofn.curve import paired_difference as paired_difference
    from tea.bestofn.curve import pass_at_n as pass_at_n
    from tea.bestofn.diagnostics import Diagnostics as Diagnostics
    from tea.bestofn.diagnostics import diagnose as diagnose
    from tea.bestofn.forecast import Forecast as Forecast
    from tea.bestofn.forecast import backtest as backtest
    from tea.bestofn.forecast import forecast_best_of_n as forecast_best_of_n
    from tea.bestofn.generate import SamplingConfig as SamplingConfig
    from tea.bestofn.generate import TransformersGenerator as TransformersGenerator
    from tea.bestofn.generate import VLLMGenerator as VLLMGenerator
    from tea.bestofn.io import RewardTable as RewardTable
    from tea.bestofn.io import read_rewards as read_rewards
    from tea.bestofn.plan import BudgetSplit as BudgetSplit
    from tea.bestofn.plan import Plan as Plan
    from tea.bestofn.plan import backtest_split as backtest_split
    from tea.bestofn.plan import fit_pass_at_n_law as fit_pass_at_n_law
    from tea.bestofn.plan import imperfect_verifier as imperfect_verifier
    from tea.bestofn.plan import plan_samples as plan_samples
    from tea.bestofn.plan import plan_training as plan_training
    from tea.bestofn.plan import split_budget as split_budget
    from tea.bestofn.report import Comparison as Comparison
    from tea.bestofn.report import RunRewards as RunRewards
    from tea.bestofn.report import compare as compare
    from tea.bestofn.report import markdown_report as markdown_report
    from tea.bestofn.report import write_report as write_report
    from tea.bestofn.sample import PromptSet as PromptSet
    from tea.bestofn.sample import Run as Run
    from tea.bestofn.sample import evaluate as evaluate
    from tea.bestofn.sample import load_prompts as load_prompts
    from tea.bestofn.sample import load_run as load_run
    from tea.bestofn.sample import score_run as score_run

_EXPORTS = {
    "BestOfNCurve": "curve",
    "PairedDifference": "curve",
    "best_of_n_curve": "curve",
    "order_weights": "curve",
    "paired_difference": "curve",
    "pass_at_n": "curve",
    "Diagnostics": "diagnostics",
    "diagnose": "diagnostics",
    "Forecast": "forecast",
    "backtest": "forecast",
    "forecast_best_of_n": "forecast",
    "BudgetSplit": "plan",
    "Plan": "plan",
    "backtest_split": "plan",
    "fit_pass_at_n_law": "plan",
    "imperfect_verifier": "plan",
    "plan_samples": "plan",
    "plan_training": "plan",
    "split_budget": "plan",
    "Comparison": "report",
    "RunRewards": "report",
    "compare": "report",
    "markdown_report": "report",
    "write_report": "report",
    "RewardTable": "io",
    "read_rewards": "io",
    "SamplingConfig": "generate",
    "TransformersGenerator": "generate",
    "VLLMGenerator": "generate",
    "PromptSet": "sample",
    "Run": "sample",
    "evaluate": "sample",
    "load_prompts": "sample",
    "load_run": "sample",
    "score_run": "sample",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    """Import the module that defines `name` on first use (PEP 562)."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return __all__

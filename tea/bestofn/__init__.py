"""What best-of-N deployment gets: the curve, its forecast beyond n, diagnostics, plans, sampling and reports.

Names are loaded on first use, so that importing the package (as the command line does for its help) costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

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

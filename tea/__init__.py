"""Train language models for best-of-N deployment, and measure what it gives.

Names are loaded on first use: importing ``tea`` is instant, its estimators need torch, and only ``tea.trainers``
needs trl and transformers.
"""

from tea import _lazy

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = _lazy.attach(__name__, __file__)
__all__ += ["__version__"]

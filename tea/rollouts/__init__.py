"""Models and files to rewards (P, n): prompts, generators, the resumable store, readers. Names load on first use."""

from tea import _lazy

__getattr__, __dir__, __all__ = _lazy.attach(__name__, __file__)

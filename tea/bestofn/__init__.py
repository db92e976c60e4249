"""What best-of-N deployment gets, from rewards (P, n): the curve, its forecast beyond n, diagnostics, plans.

Pure functions on arrays: no files, no models. Names are loaded on first use. Those of :mod:`tea.rollouts` and
:mod:`tea.report` that used to live here are still served from here.
"""

from tea import _lazy

__getattr__, __dir__, __all__ = _lazy.attach(__name__, __file__)

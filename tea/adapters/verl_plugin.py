"""Registers "tea" with verl on import: ``VERL_USE_EXTERNAL_MODULES=tea.adapters.verl_plugin``.

verl imports what that environment variable names in every process (``verl/__init__.py``, v0.9.1). Then
``algorithm.adv_estimator=tea`` trains with TEA, and ``+algorithm.tea.estimator=ladder +algorithm.tea.target_n=256``
and so on choose any estimator and its options.
"""

from tea.adapters.verl import register

register("tea")

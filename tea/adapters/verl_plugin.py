"""Registers "tea" with verl on import.

verl imports this in every process, Ray's workers too, because it is an entry point of the group ``verl.plugins``
(``verl/__init__.py``, v0.9.1); ``VERL_USE_EXTERNAL_MODULES=tea.adapters.verl_plugin`` does the same for an older verl.
Then ``algorithm.adv_estimator=tea`` trains with TEA, and ``+algorithm.tea.estimator=ladder
+algorithm.tea.target_n=256`` and so on choose any estimator and its options.
"""

import warnings

from tea.adapters.verl import register

try:
    register("tea")
except Exception as error:  # verl logs what a plugin raises for debugging only
    warnings.warn(f"tea could not register its advantage estimator with verl: {error}", stacklevel=1)
    raise

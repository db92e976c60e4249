"""The estimators inside other frameworks, one module each; none of them needs its framework to be imported.

==========================  ===============================================================================
``verl``                    nothing to call: ``algorithm.adv_estimator=tea``
``nemo_rl``                 ``install("tea", target_n=128)``: in place of the GRPO advantage estimator
``skyrl``                   ``register("tea", target_n=128)``: ``trainer.algorithm.advantage_estimator=tea``
``slime`` (and miles)       ``--custom-reward-post-process-path tea.adapters.slime.post_process_rewards``
``rllm``                    ``{"solver": register("tea", target_n=128)}``: ``traj_group_adv_estimator_map``
``tinker_cookbook``         ``install("tea", target_n=128)``: in place of ``compute_advantages``
``trinity``                 nothing to call: ``algorithm.advantage_fn: tea.adapters.trinity.TEAAdvantage``
``tunix``                   ``register("tea", target_n=128)``: ``GRPOConfig(advantage_estimator="tea")``
``rlinf``                   ``RLINF_EXT_MODULE=tea.adapters.rlinf``: ``algorithm.adv_type=tea``
``easyr1``                  ``register("tea", target_n=128)``: in place of its GRPO, by a hook of Ray
==========================  ===============================================================================

``docs/frameworks.md`` shows each setup, and which versions it was tested with and how.

All of them group rollouts by id, in any order and of unequal sizes, and refuse groups of a single rollout
(``singletons="zero"`` allows them). Defaults: ``target_n=128``, the monotone projection where it is recommended. The
advantages are as large as the estimator makes them; choose the learning rate for that, see
:class:`tea.adapters.core.GroupAdvantages`.
"""

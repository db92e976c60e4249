"""The estimators inside other frameworks, one module each; none of them needs its framework to be imported.

==========================  ===============================================================================
``verl``                    ``register("tea", target_n=128)``: ``algorithm.adv_estimator=tea``
``nemo_rl``                 ``install("tea", target_n=128)``: in place of the GRPO advantage estimator
``skyrl``                   ``register("tea", target_n=128)``: ``trainer.algorithm.advantage_estimator=tea``
``slime``                   ``--custom-reward-post-process-path tea.adapters.slime.post_process_rewards``
``rllm``                    ``register("tea", target_n=128)``: for ``traj_group_adv_estimator_map``
``tinker_cookbook``         ``install("tea", target_n=128)``: in place of ``compute_advantages``
==========================  ===============================================================================

All of them group rollouts by id, in any order and of unequal sizes, and refuse groups of a single rollout
(``singletons="zero"`` allows them). Defaults are those of the trainers: ``target_n=128``, ``scale="group"``, the
monotone projection where it is recommended, advantages normalised over the batch.
"""

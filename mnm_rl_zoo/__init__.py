"""The wheel's environments, agents and experiments, which the repository has at its top level.

``envs``, ``agents`` and ``experiments`` are names that many projects have. In a wheel these
packages, ``train.py`` and ``eval.py`` are parts of this one, ``mnm_rl_zoo.envs`` and so on
(``setup.py`` puts them here); in the repository they keep their short names.
"""

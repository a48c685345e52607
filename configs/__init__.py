"""Configurations of training runs and, as `data_*`, of datasets; `--config NAME` finds them here.

They are part of the package, as `rf_jax.configs`.
"""

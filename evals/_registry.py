"""What Inspect finds of this package: the model provider `msm` and the tasks, `inspect eval msm_jax/<task>`.

Every start of Inspect imports this file, so it imports no JAX.
"""

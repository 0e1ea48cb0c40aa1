"""Model Spec Midtraining in JAX: the trainer."""

__version__ = "0.1.0"

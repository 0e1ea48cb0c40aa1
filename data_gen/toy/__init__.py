"""A procedural world small enough that a laptop shows the effect of a Model Spec."""

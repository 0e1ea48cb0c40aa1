"""Dense decoder-only transformers: shapes, parameters, forward pass."""

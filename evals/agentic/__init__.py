"""Agentic misalignment (Lynch et al., 2510.05179) in the cells of the paper, and the variants inspect_evals has."""

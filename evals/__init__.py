"""Evaluations, their statistics and the report."""

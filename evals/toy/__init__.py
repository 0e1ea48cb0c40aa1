"""Evaluations of the toy world, and the report of its cheese experiment."""

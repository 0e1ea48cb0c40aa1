"""Asking language models: one client for every stage, with a store of all that was paid for."""

"""Trains defended models, each once, into the cache."""

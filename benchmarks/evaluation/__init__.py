"""Runs an attack on a model and scores the result."""

"""Checkpoint files, and the defended models that they hold."""

"""Adversarial reprogramming."""

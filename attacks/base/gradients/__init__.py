"""Gradient sources: where an attack gets its logits and gradients."""

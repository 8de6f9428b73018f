"""Passes of images through a model, and measurements of a model before an attack."""

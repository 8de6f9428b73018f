"""What attacks measure of a model, and how they pass images through it."""

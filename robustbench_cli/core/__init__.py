"""Floor 0: code that knows nothing about images and, if possible, does not need torch."""

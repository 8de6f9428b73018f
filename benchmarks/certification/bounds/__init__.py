"""Linear bounds of a network's values over a ball of images."""

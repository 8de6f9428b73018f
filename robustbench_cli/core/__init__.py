"""Floor 0: what knows nothing of images and, where it can be helped, nothing of torch."""

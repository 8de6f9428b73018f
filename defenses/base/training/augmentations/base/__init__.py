"""What several augmentations are built from."""

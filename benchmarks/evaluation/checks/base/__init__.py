"""What the checks are built from."""

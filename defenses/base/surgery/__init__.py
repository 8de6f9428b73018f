"""Changes to the layers of an existing network."""

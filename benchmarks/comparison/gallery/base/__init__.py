"""What the models of the gallery are built from, and what looks at them."""

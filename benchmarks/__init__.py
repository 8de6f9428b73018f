"""Floor 3: what is measured, from the images to a stored result and the rows of a table."""

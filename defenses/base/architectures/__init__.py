"""Networks of cells whose operations are searched."""

"""Engines: each takes jobs as plain data and lets workers compute and store them; they differ in where the workers run."""

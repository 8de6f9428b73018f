"""Engines: each takes jobs as plain data and has a worker publish their results; they differ in where that happens."""

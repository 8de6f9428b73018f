"""Stored results, one immutable file per cell."""

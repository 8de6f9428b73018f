"""Defenses that deceive in one known way, one file each."""

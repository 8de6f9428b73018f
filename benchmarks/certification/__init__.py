"""Certified accuracy."""

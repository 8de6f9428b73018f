"""Runs cells: the worker, the engines, and the state of a sweep."""

"""Experiment trackers that take the results of a report: one file each."""

"""Suites of attacks, one YAML file each."""

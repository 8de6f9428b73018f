"""Parameters of an attack that are themselves an attack or a model."""

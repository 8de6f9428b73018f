"""Types of attack parameters that are themselves an attack or a model."""

"""The evidence of a report: an unsigned in-toto statement with its facts, for an assessor or a model card."""

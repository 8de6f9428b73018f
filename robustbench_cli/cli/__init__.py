"""Floor 4: what a person types and sees."""

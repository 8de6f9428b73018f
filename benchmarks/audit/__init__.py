"""Audits: what the checks find in stored rows and in models, and the verdicts that follow."""

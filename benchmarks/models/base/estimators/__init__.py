"""Estimators of scikit-learn as networks."""

"""Giving bundles to others: every check the model zoo makes, and signed packages that run without this repository."""

"""The evaluate stage: a model and evaluation faces -> verification results."""

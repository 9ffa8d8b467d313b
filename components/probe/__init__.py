"""Probe: a source's fingerprint, so that a run does its work again exactly when the source changed."""

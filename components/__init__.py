"""The stages of the faceflow pipeline, one folder each, and what they share in ``common``."""

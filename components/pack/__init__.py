"""Faces to training shards: dense labels, a train/validation split, a global shuffle, and statistics."""

"""Aligned faces to faces after the per-identity policy: sample, keep, augment or drop, by the number of images."""

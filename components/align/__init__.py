"""Align: every raw face is found, turned upright and scaled onto one template."""

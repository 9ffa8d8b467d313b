"""Synthetic faces: rendered from seeds, and written in the on-disk layouts of the real sets."""

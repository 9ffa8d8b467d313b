"""What stands where in the artifacts: the names on which the stage that writes and the one that reads agree."""

PAIRS_NAME = "pairs.csv"
"""Attachment of a verification set: its pairs."""

PAIRS_COLUMNS = ("key_a", "key_b", "same", "fold")
"""Two record keys, 1 for one identity or 0 for two, and the number of the fold."""

LABELS_NAME = "labels.csv"
"""In a packed dataset and in a model: the identity of each label."""

LABELS_COLUMNS = ("label", "identity")
"""A dense class index and the identity that it stands for."""

TRAIN, VALIDATION = "train", "validation"
"""The two datasets inside a packed one."""

"""Typed errors: each message says what is wrong, where, and what to do about it.

A stage lets these reach the person who started it without a traceback; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations


class FaceflowError(Exception):
    """Anything that a person can mend: bad settings, bad input, a full disk."""


class SettingsError(FaceflowError):
    """A setting or parameter has a value that is not allowed."""


class SourceError(FaceflowError):
    """A source is misdescribed, missing, unreachable or empty."""


class ArchiveError(SourceError):
    """An archive is truncated, corrupt or hostile."""


class ChecksumError(SourceError):
    """A file has not the checksum that its source says."""


class DatasetError(FaceflowError):
    """A dataset artifact is incomplete, damaged or does not fit the other inputs."""


class DiskSpaceError(FaceflowError):
    """A volume has too little room for the work ahead."""


class StorageError(FaceflowError):
    """An object store cannot be reached, or refuses."""


class EngineError(FaceflowError):
    """A Beam runner cannot be reached, refuses the work, or lost a worker."""


class ConservationError(FaceflowError):
    """A stage cannot account for every image that it was given."""


class TrainingError(FaceflowError):
    """Training cannot go on: the loss is not finite, or the data cannot be learnt from."""


class ImageError(FaceflowError):
    """One image cannot be used.

    Attributes:
        reason: The ledger's reason for the drop, a member of :class:`faceflow.components.common.ledger.Reason`.
    """

    def __init__(self, message: str, reason: str) -> None:
        """Keep the reason beside the message."""
        super().__init__(message)
        self.reason = reason

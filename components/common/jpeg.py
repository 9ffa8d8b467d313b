"""Size and orientation of an ordinary JPEG, read from its markers.

Pillow opens any image and says the same, but takes a third of the time that a small face takes to decode. What is in
any way out of the ordinary is left to it.
"""

from __future__ import annotations

import struct

_FRAMES = frozenset((0xC0, 0xC1, 0xC2))  # baseline, extended, progressive; all by Huffman codes
_OTHER_FRAMES = frozenset((0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF))
_SCAN, _APP1 = 0xDA, 0xE1
_WITHOUT_LENGTH = frozenset((0x00, 0x01, *range(0xD0, 0xDA), 0xFF))
_ORIENTATION, _SHORT = 0x0112, 3


def measure(data: bytes) -> tuple[int, int, int, int] | None:
    """Width, height, components (1 or 3) and EXIF orientation (0 where none is given) of an ordinary 8-bit JPEG.

    Follows ITU-T T.81, annex B, and Exif 2.32, 4.5 and 4.6.

    Returns:
        Those, not turned upright; None if the file is no JPEG, or not an ordinary one.
    """
    if data[:3] != b"\xff\xd8\xff":
        return None
    frame: tuple[int, int, int] | None = None
    orientation: int | None = None
    place, end = 2, len(data)
    while place + 4 <= end:
        if data[place] != 0xFF:
            return None
        marker = data[place + 1]
        if marker in _WITHOUT_LENGTH or marker in _OTHER_FRAMES:
            return None
        body = place + 4
        place += 2 + (data[place + 2] << 8 | data[place + 3])
        if place < body or place > end:
            return None
        if marker == _SCAN:
            return None if frame is None else (*frame, orientation or 0)
        if marker in _FRAMES:
            if frame is not None or place - body < 6 or data[body] != 8:
                return None
            components = data[body + 5]
            height, width = data[body + 1] << 8 | data[body + 2], data[body + 3] << 8 | data[body + 4]
            if components not in (1, 3) or not (width and height):
                return None
            frame = (width, height, components)
        elif marker == _APP1 and data[body : body + 6] == b"Exif\0\0":
            if orientation is not None:
                return None
            orientation = _orientation(data[body + 6 : place])
            if orientation is None:
                return None
    return None


def _orientation(tiff: bytes) -> int | None:
    """The orientation that an Exif block gives, 0 if it gives none; None if the block is not an ordinary one."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return None
    try:
        (offset,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, offset)
        for index in range(entries):
            tag, kind, count, value = struct.unpack_from(order + "HHIH", tiff, offset + 2 + 12 * index)
            if tag == _ORIENTATION:
                return value if (kind, count) == (_SHORT, 1) else None
    except struct.error:
        return None
    return 0

"""What the first bytes of an image file tell: its kind, size and EXIF orientation, without decoding it.

Sources: ITU-T T.81, annex B (JPEG); ISO/IEC 15948 (PNG); RFC 9649 (WebP); CIPA DC-008, section 4.6 (EXIF).
"""

import struct
from dataclasses import dataclass
from typing import Optional, Tuple

__all__ = ["Header", "read_header"]

_ORIENTATION = 0x0112
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG markers that start a frame
_CHUNKS = 100  # of a PNG or WebP file, looked at before giving up on an orientation


@dataclass(frozen=True)
class Header:
    """Kind of an image file, its height and width as stored, and its EXIF orientation, 1 to 8."""

    kind: str
    height: int
    width: int
    orientation: int = 1

    @property
    def size(self) -> Tuple[int, int]:
        """Height and width of the upright image."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


def read_header(data: bytes) -> Optional[Header]:
    """The header of a JPEG, PNG, BMP or WebP file; None for another kind, or a damaged one."""
    try:
        if data[:2] == b"\xff\xd8":
            return _jpeg(data)
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            return _png(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
        if data[:2] == b"BM":
            return _bmp(data)
    except (struct.error, IndexError):
        pass
    return None


def _jpeg(data):
    at, orientation = 2, 1
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # filling
            at += 1
            continue
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return Header("jpeg", height, width, orientation)
        if marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            orientation = _orientation(data, at + 10)
        at += 2 + (data[at + 2] << 8 | data[at + 3])
    return None


def _png(data):
    width, height = struct.unpack_from(">II", data, 16)
    at = 8
    for _ in range(_CHUNKS):
        if at + 8 > len(data):
            break
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"eXIf":
            return Header("png", height, width, _orientation(data, at + 8))
        if kind == b"IDAT":
            break
        at += 12 + length
    return Header("png", height, width)


def _bmp(data):
    if data[14] == 12:  # the header of OS/2
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return Header("bmp", abs(height), abs(width))


def _webp(data):
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header("webp", height & 0x3FFF, width & 0x3FFF)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return Header("webp", (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1)
    width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    has_exif = kind == b"VP8X" and data[20] & 8
    return Header("webp", height, width, _webp_orientation(data) if has_exif else 1)


def _webp_orientation(data):
    at = 12
    for _ in range(_CHUNKS):
        if at + 8 > len(data):
            break
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind == b"EXIF":
            begin = at + 8 + (6 if data[at + 8 : at + 14] == b"Exif\0\0" else 0)
            return _orientation(data, begin)
        at += 8 + length + length % 2
    return 1


def _orientation(data, begin):
    """The orientation that the TIFF structure at ``begin`` gives; 1 if it is damaged or gives none."""
    try:
        order = {b"II": "<", b"MM": ">"}[data[begin : begin + 2]]
        (first,) = struct.unpack_from(order + "I", data, begin + 4)
        at = begin + first
        (count,) = struct.unpack_from(order + "H", data, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(order + "HHIH", data, entry)
            if tag == _ORIENTATION:
                return value if 1 <= value <= 8 else 1
    except (KeyError, struct.error):
        pass
    return 1

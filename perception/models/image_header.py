"""What a JPEG or PNG says about itself before it is decoded: its size, and whether its end is there.

OpenCV fills the missing rows of a truncated JPEG with grey and says nothing, and a network would believe the grey.
So the end marker is looked for first. Damage in the middle that leaves the markers intact is not found.
"""

import struct

from perception.core.errors import PayloadError

_JPEG_START = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_START_OF_SCAN = 0xDA
_END_OF_IMAGE = 0xD9
_FILL = 0xFF
# Frame headers SOF0..SOF15; C4, C8 and CC share the range but are tables (ITU T.81, table B.1).
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def image_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels of a complete JPEG or PNG.

    Raises PayloadError where `data` is neither, is cut off, or has no size.
    """
    if data.startswith(_JPEG_START):
        return _jpeg_size(data)
    if data.startswith(_PNG_START):
        return _png_size(data)
    raise PayloadError(f"image of {len(data)} bytes is neither JPEG nor PNG; other encodings are not read")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Walk the marker segments up to the first scan (ITU T.81, B.1), then look for the end marker behind it.

    Starting there matters: a thumbnail inside the header has an end marker of its own. Inside a scan the two bytes
    of the end marker cannot occur, because 0xFF is followed by a stuffed zero.
    """
    position, size = 2, (0, 0)
    while position + 4 <= len(data):
        marker = data[position + 1]
        if data[position] != _FILL:
            raise PayloadError(f"JPEG of {len(data)} bytes is damaged: no marker at byte {position}")
        if marker == _FILL:
            position += 1
            continue
        if marker == _END_OF_IMAGE:
            break
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if marker in _FRAME_HEADERS and position + 9 <= len(data):
            height, width = struct.unpack(">HH", data[position + 5 : position + 9])
            size = (width, height)
        position += 2 + length
        if marker == _START_OF_SCAN:
            if data.find(_JPEG_END, position) < 0:
                raise PayloadError(f"JPEG is cut off after {len(data)} bytes: it has no end marker")
            return _checked(size)
    raise PayloadError(f"JPEG is cut off after {len(data)} bytes: it ends within its header")


def _png_size(data: bytes) -> tuple[int, int]:
    """Size from the IHDR chunk, which comes first; the IEND chunk must be there (ISO 15948, 11.2)."""
    if len(data) < 33 or data.rfind(b"IEND", 33) < 0:
        raise PayloadError(f"PNG is cut off after {len(data)} bytes: it has no IEND chunk")
    width, height = struct.unpack(">II", data[16:24])
    return _checked((width, height))


def _checked(size: tuple[int, int]) -> tuple[int, int]:
    if min(size) <= 0:
        raise PayloadError(f"image header gives the size {size[0]}x{size[1]}")
    return size

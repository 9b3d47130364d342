"""From an image file to its pixels: the one decoder of training, validation, reports and prediction."""

import io
import os
import stat
import warnings
from typing import Optional, Tuple, Union

import cv2
import numpy as np
from PIL import Image, ImageOps

from ..errors import InputError
from .headers import read_header

__all__ = ["MAX_PIXELS", "Picture", "UnreadableImageError", "check_size", "decode", "decoded", "read_whole"]

# Larger images are refused by their header, before memory is taken: 179 million pixels, Pillow's own limit.
MAX_PIXELS = 178_956_970
MAX_BYTES = 1 << 30

_FLAGS = {
    factor: flag | cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    for factor, flag in (
        (1, cv2.IMREAD_COLOR),
        (2, cv2.IMREAD_REDUCED_COLOR_2),
        (4, cv2.IMREAD_REDUCED_COLOR_4),
        (8, cv2.IMREAD_REDUCED_COLOR_8),
    )
}
# What makes the stored image upright, for each EXIF orientation.
_UPRIGHT = {
    2: lambda image: cv2.flip(image, 1),
    3: lambda image: cv2.rotate(image, cv2.ROTATE_180),
    4: lambda image: cv2.flip(image, 0),
    5: cv2.transpose,
    6: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    7: lambda image: cv2.rotate(cv2.transpose(image), cv2.ROTATE_180),
    8: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
}

cv2.setNumThreads(0)  # its own threads would compete with the data workers
cv2.setLogLevel(0)  # images that it cannot decode are reported here
# Pillow's remarks on files that it reads all the same.
warnings.filterwarnings("ignore", module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class UnreadableImageError(InputError):
    """An image file that cannot be decoded.

    Attributes:
        path, reason: which file, and why.
    """

    def __init__(self, path: str, reason: str):
        self.path = path
        self.reason = reason
        shown = path.encode("utf-8", "backslashreplace").decode()  # a name may be no text
        super().__init__(
            f"cannot decode image {shown} ({reason}): replace or remove it, or use --skip_bad_images True to go on "
            "without it."
        )


class Picture:
    """An image file that is read, but not decoded yet.

    OpenCV decodes JPEG, PNG, BMP and WebP, Pillow what is left: TIFF, GIF (its first frame) and rare forms. Every image
    becomes RGB of 8 bits: grey is repeated, 16 bits are halved, palettes are looked up, CMYK is converted, and
    transparency is dropped.

    Args:
        path: the file, or what to call it.
        upright: turn the image as its EXIF orientation says.
        data: the file's content, if it is here already.
        max_pixels: larger images are refused; default: :data:`MAX_PIXELS`.

    Raises:
        UnreadableImageError: no regular file, or an image larger than ``max_pixels``.
        InputError: the file is not there, or must not be read.
    """

    def __init__(self, path: str, upright: bool = True, data: Optional[bytes] = None,
                 max_pixels: Optional[int] = None):  # fmt: skip
        self.path = path
        self.upright = upright
        self.max_pixels = max_pixels or MAX_PIXELS
        self.data = read_whole(path) if data is None else data
        self.header = read_header(self.data)
        self._whole: Optional[np.ndarray] = None
        if self.header is not None:
            check_size(path, self.header.height, self.header.width, self.max_pixels)

    @property
    def reducible(self) -> bool:
        """Whether :meth:`pixels` can shrink it."""
        return self.header is not None and self.header.kind == "jpeg"

    @property
    def size(self) -> Tuple[int, int]:
        """Height and width."""
        if self.header is None:
            return self.pixels().shape[:2]
        return self.header.size if self.upright else (self.header.height, self.header.width)

    def pixels(self, factor: int = 1) -> np.ndarray:
        """The image ``(H, W, 3)`` uint8 RGB.

        Args:
            factor: 1, 2, 4 or 8, by which a JPEG image is shrunk while it is decoded: that takes less time than
                decoding all of it. Other files come as they are.

        Raises:
            UnreadableImageError: it cannot be decoded.
        """
        if self._whole is None:
            image = self._by_opencv(factor if self.reducible else 1)
            if image is not None:
                return image
            self._whole = self._by_pillow()
        return self._whole

    def _by_opencv(self, factor):
        """None of what OpenCV cannot decode."""
        if self.header is None:
            return None
        image = cv2.imdecode(np.frombuffer(self.data, np.uint8), _FLAGS[factor])
        turned = self.upright and self.header.orientation > 1 and image is not None
        return _UPRIGHT[self.header.orientation](image) if turned else image

    def _by_pillow(self):
        try:
            with Image.open(io.BytesIO(self.data)) as file:
                check_size(self.path, file.height, file.width, self.max_pixels)
                return _in_colour(ImageOps.exif_transpose(file) if self.upright else file)
        except (MemoryError, UnreadableImageError):
            raise
        except Image.DecompressionBombError as error:
            raise UnreadableImageError(self.path, f"more than {self.max_pixels:,} pixels") from error
        except Exception as error:  # whatever a damaged file makes Pillow's many readers raise
            raise UnreadableImageError(self.path, _reason(error, self.data)) from error


def decode(path: str, upright: bool = True, data: Optional[bytes] = None) -> np.ndarray:
    """The image ``(H, W, 3)`` uint8 RGB; see :class:`Picture`, also for the arguments.

    Raises:
        UnreadableImageError: it cannot be decoded.
        InputError: the file cannot be read.
    """
    return Picture(path, upright, data).pixels()


def decoded(path: str) -> Union[np.ndarray, str]:
    """As :func:`decode`; or, where it cannot be decoded, the reason as text."""
    try:
        return decode(path)
    except UnreadableImageError as error:
        return error.reason


def read_whole(path: str, kind: str = "image") -> bytes:
    """The bytes of an image file.

    Raises:
        UnreadableImageError: no regular file, or an endless one.
        InputError: it is not there, or must not be read; ``kind`` is what the message calls it.
    """
    try:
        # Opening a pipe that nobody writes to must not wait.
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableImageError(path, "not a regular file")
            if status.st_size > MAX_BYTES:
                raise UnreadableImageError(path, f"larger than {MAX_BYTES >> 20} MiB")
            data = os.read(file, status.st_size)
            while len(data) < status.st_size:  # a read may be cut short
                more = os.read(file, status.st_size - len(data))
                if not more:
                    break
                data += more
            return data
        finally:
            os.close(file)
    except OSError as error:
        raise InputError(f"cannot read {kind} {path} ({error.strerror}): restore or remove it.") from error


def check_size(path: str, height: int, width: int, limit: int = MAX_PIXELS, resized: bool = False) -> None:
    """Raise UnreadableImageError for an image that has, or gets when it is ``resized``, more than ``limit`` pixels."""
    if height * width > limit:
        what = "resized to " if resized else ""
        raise UnreadableImageError(path, f"{what}{width} x {height}, more than {limit:,} pixels")


def _in_colour(image):
    """The pixels ``(H, W, 3)`` uint8 of a Pillow image in any mode."""
    if image.mode == "F":
        raise ValueError("its pixels are fractions of no known range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode == "P":  # whose transparency may have a value for each colour
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def _reason(error, data):
    if not data:
        return "the file is empty"
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif"):
        return "HEIC or AVIF, which is not read here; save it as JPEG or PNG"
    if isinstance(error, Image.UnidentifiedImageError):
        return "no image of a known kind, or a damaged one"
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__

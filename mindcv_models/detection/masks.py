"""Masks of objects: COCO's polygons and run lengths, and packed crops of them, in NumPy.

A mask is kept as run lengths, as COCO does: the pixels column by column, first how many are outside, then how many
inside, and so on. No bitmap of an image's size is made: only the columns of an object's box are written out.
"""

from dataclasses import dataclass
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple, Union

import numpy as np

from ..errors import InputError, shown

__all__ = ["PackedMasks", "RunLengths", "bytes_needed", "pack", "run_lengths"]

MOST_STEPS = 1000  # of a polygon's outline, as multiples of the image's height and width: drawing takes memory for each
MARGIN = 2  # pixels of the original image around an annotated box in which its mask is looked at


def run_lengths(bitmap: np.ndarray) -> Dict[str, Any]:
    """A bitmap ``(height, width)`` as COCO's compressed run lengths."""
    from pycocotools import mask as coco

    encoded = coco.encode(np.asfortranarray(bitmap.astype(np.uint8)))
    return {"size": list(bitmap.shape), "counts": encoded["counts"].decode("ascii")}


@dataclass(frozen=True)
class RunLengths:
    """A mask of ``height`` x ``width`` pixels; ``counts`` begins with pixels outside."""

    height: int
    width: int
    counts: np.ndarray

    @classmethod
    def of(cls, segmentation: Any, height: int, width: int) -> "RunLengths":
        """The mask of an annotation of an image of this size.

        Args:
            segmentation: polygons (lists of x, y, x, y, ...), of which the mask is the union; or run lengths
                ``{"size": [height, width], "counts": ...}``, as a list of numbers or COCO's compressed text.

        Raises:
            InputError: it is none of these, or of another size.
        """
        if isinstance(segmentation, dict):
            return cls._of_counts(segmentation, height, width)
        if not isinstance(segmentation, (list, tuple)) or not segmentation:
            raise InputError(f"segmentation {shown(segmentation)} is neither polygons nor run lengths.")
        for polygon in segmentation:
            if not isinstance(polygon, (list, tuple)) or len(polygon) < 6 or len(polygon) % 2 or not finite(polygon):
                raise InputError(
                    f"polygon {shown(polygon)} is no list of x, y, x, y, ... with at least 3 points: mend or remove it."
                )
        if _outline(segmentation) > MOST_STEPS * (height + width):
            raise InputError(f"polygons {shown(segmentation)} reach far beyond the image: mend or remove them.")
        from pycocotools import mask as coco

        return cls._of_counts(coco.merge(coco.frPyObjects(list(map(list, segmentation)), height, width)), height, width)

    @classmethod
    def _of_counts(cls, segmentation, height, width):
        counts, size = segmentation.get("counts"), segmentation.get("size")
        if not isinstance(size, (list, tuple)) or list(size) != [height, width]:
            raise InputError(
                f"the run lengths are of size {shown(size)}, but the image is {[height, width]} (height, width)."
            )
        if isinstance(counts, (str, bytes)):
            counts = decompressed(counts)
        elif not isinstance(counts, (list, tuple)) or not finite(counts):
            raise InputError(f"counts {shown(counts)} are no run lengths.")
        counts = np.asarray(counts, np.int64)
        if (counts < 0).any() or (counts > height * width).any() or counts.sum() != height * width:
            raise InputError(
                f"the run lengths cover {counts.sum()} pixels, but an image of {height} x {width} has {height * width}."
            )
        return cls(height, width, counts)

    @classmethod
    def of_bitmap(cls, bitmap: np.ndarray) -> "RunLengths":
        """The run lengths of a bitmap ``(height, width)``."""
        flat = np.concatenate([[False], np.asarray(bitmap, bool).reshape(-1, order="F"), [False]])
        edges = np.flatnonzero(flat[1:] != flat[:-1])
        counts = np.diff(np.concatenate([[0], edges, [bitmap.size]]))
        return cls(*bitmap.shape, counts[: len(edges) + 1])

    def annotation(self) -> Dict[str, Any]:
        """The mask as annotations have it, not compressed."""
        return {"size": [self.height, self.width], "counts": self.counts.tolist()}

    def area(self) -> int:
        """Pixels inside."""
        return int(self.counts[1::2].sum())

    def box(self) -> Tuple[int, int, int, int]:
        """The smallest box of whole pixels with all that is inside, (x1, y1, x2, y2); zeros if nothing is."""
        ends = np.cumsum(self.counts)
        starts, ends = ends[:-1:2], ends[1::2]
        starts, ends = starts[: len(ends)][starts[: len(ends)] < ends], ends[starts[: len(ends)] < ends]
        if not len(starts):
            return 0, 0, 0, 0
        left, right = starts[0] // self.height, (ends[-1] - 1) // self.height + 1
        if (starts // self.height != (ends - 1) // self.height).any():  # a run goes on in the next column
            whole = self.columns(int(left), int(right)).any(0)
            rows = np.flatnonzero(whole)
            return int(left), int(rows[0]), int(right), int(rows[-1]) + 1
        return int(left), int((starts % self.height).min()), int(right), int(((ends - 1) % self.height).max()) + 1

    def columns(self, first: int, end: int) -> np.ndarray:
        """The pixels of some columns, ``(end - first, height)``, of 0 and 1."""
        edges = np.clip(np.cumsum(self.counts), first * self.height, end * self.height)
        lengths = np.diff(edges, prepend=first * self.height)
        values = (np.arange(len(lengths)) % 2).astype(np.uint8)
        return np.repeat(values, lengths).reshape(end - first, self.height)

    def bitmap(self) -> np.ndarray:
        """All pixels, ``(height, width)`` bool."""
        return self.columns(0, self.width).T.astype(bool)


def finite(numbers: Sequence) -> bool:
    return all(isinstance(n, (int, float)) and abs(n) < 1e15 for n in numbers)


def _outline(polygons: Sequence[Sequence[float]]) -> float:
    """Pixels along the outlines of polygons, and from the image's corner to where they begin."""
    total = 0.0
    for polygon in polygons:
        points = np.asarray(polygon, np.float64).reshape(-1, 2)
        total += np.abs(points[0]).max() + np.abs(np.diff(points, axis=0, append=points[:1])).max(1).sum()
    return total


def decompressed(text: Union[str, bytes]) -> List[int]:
    """The counts of COCO's compressed run lengths.

    A character holds five bits of a number and whether more follow, the lowest bits first; the last one's fifth bit is
    the sign. From the fourth number on it is the difference to the second last one.

    Raises:
        InputError: a character has no meaning, or the last number is cut off.
    """
    data = text.encode("ascii", "replace") if isinstance(text, str) else text
    counts, value, shift = [], 0, 0
    for character in data:
        code = character - 48
        if not 0 <= code < 64 or shift > 60:
            raise InputError(f"counts {shown(text)} are no compressed run lengths.")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        if abs(counts[-1]) >= 1 << 62:
            raise InputError(f"counts {shown(text)} are no compressed run lengths.")
        value = shift = 0
    if shift:
        raise InputError(f"counts {shown(text)} end within a number.")
    return counts


class PackedMasks(NamedTuple):
    """The masks of one image's objects, in a fixed number of bytes.

    Attributes:
        crops: ``(K,)`` uint8: one object after the other, row by row; eight pixels a byte, the leftmost in the highest
            bit, rows filled up with zeros.
        places: ``(G, 5)`` int32: where each object's crop begins in ``crops``, its left and top in the image, its width
            and height; zeros for rows without an object.
    """

    crops: np.ndarray
    places: np.ndarray


def bytes_needed(boxes: np.ndarray, scale: Tuple[float, float]) -> int:
    """An upper bound of the bytes of the packed masks of an image's boxes ``(G, 4)``, resized by (x, y) factors."""
    sides = boxes[:, 2:] - boxes[:, :2] + 2 * MARGIN + 2
    sides = np.ceil(sides * np.asarray(scale)) + 2
    return int(((sides[:, 0] + 7) // 8 * sides[:, 1]).sum())


def pack(masks: Sequence[RunLengths], boxes: np.ndarray, size: Tuple[int, int], flip: bool, rows: int,
         capacity: int) -> PackedMasks:  # fmt: skip
    """The masks of an image's objects, resized and flipped as the image is.

    A pixel of the resized mask is that of the original at ``floor(index * old / new)``. Masks are looked at within
    their annotated boxes and a margin of 2 pixels.

    Args:
        masks: of the original image.
        boxes: their annotated boxes there, ``(G, 4)``.
        size: height and width of the resized image.
        rows: of ``places``; more masks are left out.
        capacity: bytes of ``crops``.

    Raises:
        ValueError: the capacity does not suffice; :func:`bytes_needed` of the boxes always does.
    """
    crops, places = np.zeros(capacity, np.uint8), np.zeros((rows, 5), np.int32)
    offset = 0
    for k, (mask, box) in enumerate(zip(masks[:rows], boxes)):
        left, top, pixels = crop(mask, box, size)
        if flip:
            left, pixels = size[1] - left - pixels.shape[1], pixels[:, ::-1]
        packed = np.packbits(pixels, axis=1).reshape(-1)
        if offset + len(packed) > capacity:
            raise ValueError(f"the masks of an image need more than {capacity} bytes.")
        crops[offset : offset + len(packed)] = packed
        places[k] = offset, left, top, pixels.shape[1], pixels.shape[0]
        offset += len(packed)
    return PackedMasks(crops, places)


def crop(mask: RunLengths, box: np.ndarray, size: Tuple[int, int]) -> Tuple[int, int, np.ndarray]:
    """The part of a mask, resized to ``size``, around a box of the original: left, top, pixels ``(h, w)``."""
    rows = np.arange(size[0]) * mask.height // size[0]  # of the original
    columns = np.arange(size[1]) * mask.width // size[1]
    rows_from, rows_to = np.searchsorted(rows, [np.floor(box[1]) - MARGIN, np.ceil(box[3]) + MARGIN])
    columns_from, columns_to = np.searchsorted(columns, [np.floor(box[0]) - MARGIN, np.ceil(box[2]) + MARGIN])
    if rows_from >= rows_to or columns_from >= columns_to:
        return 0, 0, np.zeros((0, 0), np.uint8)
    rows, columns = rows[rows_from:rows_to], columns[columns_from:columns_to]
    pixels = mask.columns(columns[0], columns[-1] + 1)[columns - columns[0]][:, rows]
    return int(columns_from), int(rows_from), pixels.T

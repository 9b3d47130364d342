"""A look at the data before a run: what it would be trained on, what is left out and why, in one table."""

import hashlib
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from tqdm import tqdm

from ..errors import InputError, one_line
from ..evaluation.tables import markdown_table
from .images import UnreadableImageError, read_whole
from .loader import Source, threads

__all__ = ["Part", "inspect", "report"]

logger = logging.getLogger(__name__)

LISTED = 20  # files of each kind that are named


@dataclass
class Part:
    """What was found of one split.

    Attributes:
        name: the split's.
        images: how many of them there are to use, those that are unreadable included.
        counts: how much there is of each class, by its name, in the order of the labels.
        missing: the classes that there is nothing of.
        left_out: how many files, images or objects are not used, by the reason.
        unreadable: images that cannot be decoded, and why.
        sizes: height and width of the others.
        contents: of each image that could be read, a digest of its file and its name.
        notes: what does not stop a run, but is worth a look: a heading, and what it is about.
        faults: what would stop a run.
    """

    name: str
    images: int = 0
    counts: Dict[str, Any] = field(default_factory=dict)
    missing: List[str] = field(default_factory=list)
    left_out: Dict[str, int] = field(default_factory=dict)
    unreadable: List[Tuple[str, str]] = field(default_factory=list)
    sizes: List[Tuple[int, int]] = field(default_factory=list)
    contents: List[Tuple[bytes, str]] = field(default_factory=list)
    notes: Dict[str, List[str]] = field(default_factory=dict)
    faults: List[str] = field(default_factory=list)

    def attempt(self, call: Callable[[], Any]) -> Any:
        """What ``call`` returns; None if it raises InputError, which becomes a fault."""
        try:
            return call()
        except InputError as error:
            if str(error) not in self.faults:
                self.faults.append(str(error))
            return None


def inspect(part: Part, source: Source, note: Callable[[int, bytes], Any], workers: int) -> List[Any]:
    """Read each file once: those that cannot be decoded go to ``part.unreadable``, other errors to ``part.faults``.

    The digests of the others go to ``part.contents``.

    Args:
        note: from a sample's number and its file to what is to be kept of it.

    Returns:
        What ``note`` gave of each sample that could be decoded.
    """

    def look(index: int) -> Tuple[Any, Any, Optional[InputError]]:
        name = source.name(index)
        try:
            data = read_whole(name)
            return note(index, data), (digest(data), name), None
        except InputError as error:
            return None, None, error

    with ThreadPoolExecutor(threads(workers)) as pool:
        looks = pool.map(look, range(len(source)))
        found = list(tqdm(looks, desc=f"checking {part.name}", total=len(source), unit="img", disable=None))
    part.contents = [content for _, content, error in found if error is None]
    for index, (_, _, error) in enumerate(found):
        if isinstance(error, UnreadableImageError):
            part.unreadable.append((source.name(index), error.reason))
        elif error is not None:
            part.faults.append(str(error))
    return [value for value, _, error in found if error is None]


def digest(data: bytes) -> bytes:
    """What files of the same bytes have in common, and no others."""
    return hashlib.blake2b(data, digest_size=16).digest()


def report(parts: Sequence[Part], skip_bad_images: bool) -> int:
    """Log the table, the unreadable files and the faults; 1 if a run would not get through the data, else 0."""
    logger.info("%s", markdown_table(_rows(parts)).rstrip())
    for part in parts:
        _list(f"{part.name} has nothing of {len(part.missing)} of the {len(part.counts)} classes", part.missing)
        for title, lines in part.notes.items():
            _list(title, lines)
    for part in parts[1:]:
        _list_twins(parts[0], part)
    bad = [f"{path}: {reason}" for part in parts for path, reason in part.unreadable]
    faults = [f"{part.name}: {fault}" for part in parts for fault in part.faults]
    advice = "" if skip_bad_images else "; replace or remove them, or use --skip_bad_images True"
    _list(f"cannot be decoded{advice}", bad)
    _list("would stop a run", faults)
    if faults or (bad and not skip_bad_images):
        return 1
    logger.info("nothing in the data would stop a run")
    return 0


def _list(title, lines) -> None:
    if lines:
        more = [f"and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
        logger.warning("%s:%s", title, "".join(f"\n  {one_line(line)}" for line in [*lines[:LISTED], *more]))


def _list_twins(train: Part, part: Part) -> None:
    """Name the images that both splits have: validation knows them from training, and is too good."""
    names: Dict[bytes, str] = {}
    for content, name in train.contents:
        names.setdefault(content, name)
    twins = [f"{name} is {names[content]}" for content, name in part.contents if content in names]
    title = f"{len(twins)} of {len(part.contents)} images of {part.name} are images of {train.name} too, byte for byte"
    _list(f"{title}: figures of {part.name} will be too good; leave them in one of the two", twins)


def _rows(parts) -> List[Dict[str, str]]:
    names = [part.name for part in parts]

    def row(title: str, cells: Sequence[Any]) -> Dict[str, str]:
        return {"": _cell(title), **{name: str(cell) for name, cell in zip(names, cells)}}

    rows = [row("images", [part.images for part in parts])]
    for name in dict.fromkeys(name for part in parts for name in part.counts):
        rows.append(row(f"class {name}", [part.counts.get(name, 0) for part in parts]))
    for reason in dict.fromkeys(reason for part in parts for reason in part.left_out):
        rows.append(row(f"left out: {reason}", [part.left_out.get(reason, 0) for part in parts]))
    rows.append(row("cannot be decoded", [len(part.unreadable) for part in parts]))
    for title, share in (("smallest", 0.0), ("median", 0.5), ("largest", 1.0)):
        rows.append(row(f"{title} width x height", [_size(part.sizes, share) for part in parts]))
    return rows


def _size(sizes, share) -> str:
    if not sizes:
        return ""
    height, width = sorted(sizes, key=lambda size: (size[0] * size[1], size))[int(share * (len(sizes) - 1))]
    return f"{width} x {height}"


def _cell(text) -> str:
    return one_line(text).replace("|", "\\|")

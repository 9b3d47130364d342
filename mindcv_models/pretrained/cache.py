"""The folder that downloaded weights are kept in: ``<cache>/<model>.<tag>/<file>``, with the file's checksum beside it.

Nothing is known of the published files but their addresses. The SHA-256 of a file is therefore noted when it is first
downloaded or used, in ``<file>.sha256`` as ``sha256sum`` writes it, and the file is compared with it ever after.
"""

import errno
import hashlib
import logging
import os
import shlex
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator, Optional, Tuple
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from ..errors import InputError, RunError
from ..files import cache_folder, write_text
from .download import DownloadError, discard, download
from .table import Weights

__all__ = ["CACHE_VARIABLE", "MIRROR_VARIABLE", "Source", "fetch"]

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "MINDCV_MODELS_CACHE"
MIRROR_VARIABLE = "MINDCV_MODELS_MIRROR"
HUGGING_FACE = "https://huggingface.co"


@dataclass(frozen=True)
class Source:
    """Where published weights come from.

    Attributes:
        cache: folder to keep them in; None for the one in MINDCV_MODELS_CACHE, or ``~/.cache/mindcv_models/weights``.
        mirror: server to ask instead of the published ones, with their paths, such as ``https://hf-mirror.com``; None
            for the one in MINDCV_MODELS_MIRROR. HF_ENDPOINT replaces https://huggingface.co alone.
        file: the weights as a file that is here already; then nothing is downloaded.
    """

    cache: Optional[str] = None
    mirror: Optional[str] = None
    file: Optional[str] = None

    @property
    def folder(self) -> Path:
        """The cache."""
        given = self.cache or os.environ.get(CACHE_VARIABLE)
        if given:
            return Path(given).expanduser().absolute()
        return cache_folder() / "weights"

    def addresses(self, weights: Weights) -> Tuple[str, ...]:
        """The addresses to ask, in turn."""
        mirror = self.mirror or os.environ.get(MIRROR_VARIABLE)
        hub = os.environ.get("HF_ENDPOINT")
        if mirror:
            return tuple(_moved(address, _server(mirror)) for address in weights.addresses)
        return tuple(
            _moved(address, _server(hub)) if hub and address.startswith(f"{HUGGING_FACE}/") else address
            for address in weights.addresses
        )


def _server(mirror) -> str:
    if not mirror.startswith(("http://", "https://")):
        raise InputError(f"the mirror {mirror!r} is no address: give one such as https://hf-mirror.com.")
    return mirror.rstrip("/")


def _moved(address, server) -> str:
    parts = urlsplit(address)
    return address.replace(f"{parts.scheme}://{parts.netloc}", server, 1)


def fetch(weights: Weights, source: Source, check: Callable[[Path], None] = lambda path: None) -> Path:
    """The file of ``weights`` in the cache; if it is not there, it is downloaded.

    Several processes may ask at once, the ranks of a job, say: one downloads, the others wait for it.

    Args:
        check: looks into a downloaded file before it is taken, and raises InputError if it is not what it should be.

    Raises:
        InputError: the cache is not writable, or the file is not the one whose checksum was noted.
        RunError: the file could not be downloaded.
    """
    path = source.folder / weights.name / weights.file_name
    if path.is_file():
        return _compared(path)
    addresses = source.addresses(weights)
    with _written(path), _alone(path) as failed:
        if path.is_file():
            return _compared(path)
        try:
            _download(weights, addresses, path, check)
        except RunError as error:
            write_text(failed, str(error))
            raise
        failed.unlink(missing_ok=True)
    return path


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """The folder of ``path``, made if needed; errors of writing there in words."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise RunError(
                f"no space for {path} ({error.strerror}): free some, or choose another folder with --pretrained_cache "
                f"or {CACHE_VARIABLE}; what was downloaded is kept, and the next run goes on from there."
            ) from error
        raise InputError(
            f"cannot write {path} ({error.strerror}): choose another folder with --pretrained_cache or "
            f"{CACHE_VARIABLE}."
        ) from error


@contextmanager
def _alone(path: Path) -> Iterator[Path]:
    """One process at a time; yields the file that says why the last one failed.

    Raises:
        RunError: the process that this one waited for failed; it is not tried again by each of them.
    """
    failed, since, waited = path.with_name(f"{path.name}.failed"), time.time(), False
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("waiting for another process that downloads %s", path)
        lock.acquire()
        waited = True
    try:
        if waited and not path.is_file() and failed.is_file() and failed.stat().st_mtime > since - 1:
            raise RunError(failed.read_text(encoding="utf-8"))
        yield failed
    finally:
        lock.release()


def _download(weights: Weights, addresses, path: Path, check) -> None:
    terms = weights.licence
    logger.log(
        logging.INFO if terms.commercial else logging.WARNING, "%s is under %s%s", weights.name, terms.text,
        "" if terms.commercial else ": not for commercial use",
    )  # fmt: skip
    part, reasons = path.with_name(f"{path.name}.part"), []
    for address in addresses:
        logger.info("downloading %s to %s", address, path)
        try:
            told = download(address, part)
            _accept(part, path, told, check)
            return
        except DownloadError as error:
            reasons.append(f"{address} ({error})")
            logger.info("%s: %s", address, error)
    raise RunError(
        f"cannot download {weights.name} from {' or '.join(reasons)}: run this again with network (HTTPS_PROXY and "
        f"--pretrained_mirror help behind a firewall); or, where there is network, `curl -L -o {weights.file_name} "
        f"{shlex.quote(addresses[0])}`, and copy the file to {path} or give it with --pretrained_file."
    )


def _accept(part: Path, path: Path, told: Optional[str], check) -> None:
    """Make ``part`` the file ``path`` if it is a checkpoint, and the same one as before.

    Args:
        told: the checksum that the server gave, if it gave one.
    """
    try:
        check(part)
    except InputError as error:
        discard(part)
        raise DownloadError(f"what came is no checkpoint: {error}") from error
    digest, noted = _digest(part), _noted(path)
    for expected, whose in ((told, "the server's"), (noted, f"in {_note(path).name}, of the first download")):
        if expected and digest != expected:
            discard(part)
            raise DownloadError(f"its SHA-256 is {digest}, but must be {expected}, {whose}")
    _write_note(path, digest)
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    discard(part)
    logger.info("downloaded %s, SHA-256 %s", path, digest)


def _compared(path: Path) -> Path:
    """``path``, if its checksum is the one noted; one that was put there by hand is noted now."""
    digest, noted = _digest(path), _noted(path)
    if noted is None:
        try:
            _write_note(path, digest)
        except OSError:  # a cache that others fill
            logger.info("%s has no checksum beside it, and none can be written", path)
    elif digest != noted:
        raise InputError(
            f"{path} has changed since it was downloaded: its SHA-256 is {digest}, but {noted} was noted. Delete it to "
            f"download it again; or, if the new one is right, delete {_note(path).name}."
        )
    return path


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _noted(path: Path) -> Optional[str]:
    try:
        return _note(path).read_text(encoding="utf-8").split()[0].lower()
    except (FileNotFoundError, IndexError):
        return None


def _write_note(path: Path, digest: str) -> None:
    write_text(_note(path), f"{digest}  {path.name}\n")


def _digest(path: Path) -> str:
    result = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            result.update(block)
    return result.hexdigest()

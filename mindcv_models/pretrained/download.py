"""One file over HTTP, through Requests: retried, and resumed where it was cut off.

Requests and urllib3 know proxies, redirects, certificates and repeated attempts. What they do not have is resuming:
the bytes so far are in ``<file>.part``, and ``<file>.part.json`` says of which version of the file they are, so that
the server is asked for the rest of that very version (``Range`` with ``If-Range``, RFC 9110, section 13.1.5) and the
parts of two versions never meet.
"""

import errno
import json
import logging
import os
import re
import shutil
import time
from pathlib import Path
from typing import Dict, Iterator, Optional

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.util import Retry

from ..files import write_text

__all__ = ["DownloadError", "discard", "download"]

logger = logging.getLogger(__name__)

ATTEMPTS = 5  # in a row that bring nothing
PAUSE = 1.0  # seconds before the second attempt; twice as long before each one after
LONGEST_PAUSE = 60  # seconds, whatever a server asks for
TIMEOUT = (10, 30)  # seconds to connect, and to wait for bytes
BUSY = (408, 429, 500, 502, 503, 504)
BLOCK = 1 << 16  # bytes


class _Patience(Retry):
    """Repeated attempts of a request, with a limit to the pause that a server asks for."""

    def get_retry_after(self, response):
        seconds = super().get_retry_after(response)
        return None if seconds is None else min(seconds, LONGEST_PAUSE)


class DownloadError(Exception):
    """A file that this address does not give, with the reason."""


class _CutOff(Exception):  # noqa: N818, it is tried again
    """The connection ended before the file did."""


def download(address: str, part: Path) -> Optional[str]:
    """Bring the file at ``address`` to ``part``, going on from what is there of it.

    Returns:
        The SHA-256 that the server says it has, as Hugging Face's does; mostly None.

    Raises:
        DownloadError: the server cannot be reached, does not have it, or sends something else.
        OSError: ``part`` cannot be written; what came before stays.
    """
    failures, farthest = 0, _size(part)
    with _session() as session:
        while True:
            try:
                return _continue(session, address, part)
            except _CutOff as error:
                reached = _size(part)
                failures = 1 if reached > farthest else failures + 1
                farthest = max(farthest, reached)
                if failures == ATTEMPTS:
                    raise DownloadError(str(error)) from error
                logger.info("%s: %s; trying again from byte %d", address, error, reached)
                time.sleep(min(PAUSE * 2 ** (failures - 1), LONGEST_PAUSE))


def discard(part: Path) -> None:
    """Delete what is left of a download."""
    part.unlink(missing_ok=True)
    _version_file(part).unlink(missing_ok=True)


def _session() -> requests.Session:
    session = requests.Session()
    retries = _Patience(
        ATTEMPTS - 1, connect=3, backoff_factor=PAUSE, backoff_max=LONGEST_PAUSE, status_forcelist=BUSY,
        raise_on_status=False,
    )  # fmt: skip
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retries))
    session.headers["Accept-Encoding"] = "identity"  # so that sizes are the file's
    return session


def _continue(session, address, part) -> Optional[str]:
    """One request, for the whole file or the rest of it."""
    known = _version(part)
    start = _size(part) if known.get("address") == address and known.get("validator") else 0
    if start and start == known.get("size"):
        return known.get("sha256")
    headers = {"Range": f"bytes={start}-", "If-Range": known["validator"]} if start else {}
    with _ask(session, address, headers) as response:
        if response.status_code == 416:  # the part is longer than the file
            discard(part)
            raise _CutOff("the file is another one by now")
        if response.status_code not in (200, 206):
            raise DownloadError(f"{response.status_code} {response.reason}")
        if response.status_code == 200:
            start = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise DownloadError(f"the server sent {response.headers.get('Content-Range')!r}, not from byte {start}")
        version = _describe(address, response, start)
        _write(response, part, start, version)
    if version["size"] is not None and _size(part) != version["size"]:
        raise _CutOff(f"the connection ended after {_size(part)} of {version['size']} bytes")
    return version["sha256"]


def _ask(session, address, headers) -> requests.Response:
    try:
        return session.get(address, headers=headers, stream=True, timeout=TIMEOUT)
    except requests.RequestException as error:  # urllib3 has repeated it
        raise DownloadError(_reason(error)) from error


def _blocks(response) -> Iterator[bytes]:
    try:
        yield from response.iter_content(BLOCK)
    except requests.RequestException as error:
        raise _CutOff(f"the connection was lost ({_reason(error)})") from error


def _describe(address, response, start) -> Dict:
    """Which version of the file ``response`` brings; a weak ETag does not tell one from the next."""
    etag = response.headers.get("ETag", "")
    length = response.headers.get("Content-Length")
    linked = [r.headers.get("X-Linked-ETag", "").strip('"') for r in (*response.history, response)]
    return {
        "address": address,
        "validator": etag if etag.startswith('"') else response.headers.get("Last-Modified"),
        "size": start + int(length) if length else None,
        "sha256": next((tag for tag in linked if re.fullmatch(r"[0-9a-f]{64}", tag)), None),
    }


def _write(response, part: Path, start: int, version: Dict) -> None:
    blocks = _blocks(response)
    first = next(blocks, b"")
    if not start and (response.headers.get("Content-Type", "").startswith("text/html") or first.lstrip()[:1] == b"<"):
        raise DownloadError(
            "an HTML page came instead of the file: a login, a proxy's message or Google Drive's warning"
        )
    size = version["size"]
    if size and size - start > shutil.disk_usage(part.parent).free:
        raise OSError(errno.ENOSPC, f"{size - start:,} bytes are needed", str(part))
    if not start:
        part.unlink(missing_ok=True)
        write_text(_version_file(part), json.dumps(version))
    name = part.name[: -len(".part")]
    with open(part, "ab") as file, tqdm(
        total=size, initial=start, desc=name, unit="B", unit_scale=True, disable=None, leave=False
    ) as bar:  # fmt: skip
        block = first
        while block:
            file.write(block)
            bar.update(len(block))
            block = next(blocks, b"")


def _version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _version(part: Path) -> Dict:
    try:
        found = json.loads(_version_file(part).read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def _size(part: Path) -> int:
    return os.path.getsize(part) if part.is_file() else 0


def _reason(error) -> str:
    """The innermost reason of an error of Requests, on one line."""
    while isinstance(inner := getattr(error, "reason", None) or (error.args or (None,))[0], Exception):
        error = inner
    return " ".join(str(error).split()) or type(error).__name__

"""Requests are counted and measured before anything is made of them, so that none costs more than it may."""

import asyncio
import time
from typing import Any, Callable, Dict

import orjson

from .metrics import REQUESTS, SECONDS, WAITING
from .options import MIB, ServeOptions

__all__ = ["Guard", "RefusedError", "error_body"]

KINDS = ("predict", "infer", "metrics", "health")


class RefusedError(Exception):
    """A request that is answered with ``status`` and one line."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


def error_body(message: str) -> bytes:
    """The answer to a request that went wrong."""
    return orjson.dumps({"error": message})


class Guard:
    """ASGI: reads a request's body whole, within the limits of the options, and hands both on."""

    def __init__(self, app: Callable, options: ServeOptions):
        self.app = app
        self.options = options
        self.requests = self.bytes = 0

    async def __call__(self, scope: Dict[str, Any], receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        kind = next((word for word in KINDS if word in scope["path"].split("/")), "other")
        started, answer = time.perf_counter(), {"status": 499}  # the client left

        async def watched(message):
            if message["type"] == "http.response.start":
                answer["status"] = message["status"]
            await send(message)

        try:
            await self._admit(scope, receive, watched)
        except RefusedError as error:
            await refuse(watched, error)
        finally:
            REQUESTS.labels(kind, str(answer["status"])).inc()
            SECONDS.labels(kind).observe(time.perf_counter() - started)

    async def _admit(self, scope, receive, send) -> None:
        if scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        if self.requests >= self.options.max_queue:
            raise RefusedError(503, f"{self.requests} requests are being answered: try again later")
        self.requests += 1
        WAITING.inc()
        body = bytearray()
        try:
            whole = await asyncio.wait_for(self._read(scope, receive, body), self.options.timeout)
            if whole:
                await self.app(scope, replayed(bytes(body), receive), send)
        except asyncio.TimeoutError as error:
            raise RefusedError(408, f"the request took more than {self.options.timeout:g} seconds to arrive") from error
        finally:
            self.requests -= 1
            self.bytes -= len(body)
            WAITING.dec()

    async def _read(self, scope, receive, body: bytearray) -> bool:
        """Append the request's body to ``body``; False if the client left before its end."""
        self._check(int(next((value for key, value in scope["headers"] if key == b"content-length"), 0)), 0)
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return False
            part = message.get("body", b"")
            self._check(len(body) + len(part), len(part))
            body += part
            self.bytes += len(part)
            if not message.get("more_body"):
                return True

    def _check(self, length: int, more: int) -> None:
        if length > self.options.max_body * MIB:
            raise RefusedError(413, f"the request is larger than {self.options.max_body:g} MiB: send less at a time")
        if self.bytes + more > self.options.max_memory * MIB:
            raise RefusedError(503, f"requests of {self.bytes // MIB} MiB are being answered: try again later")


def replayed(body: bytes, receive: Callable) -> Callable:
    """A ``receive`` that gives the body first."""
    parts = [{"type": "http.request", "body": body, "more_body": False}]

    async def again():
        return parts.pop() if parts else await receive()

    return again


async def refuse(send: Callable, error: RefusedError) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    if error.status == 503:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": error_body(str(error))})

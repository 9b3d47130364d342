"""The service's addresses: the page, pictures, tensors, health and figures."""

import asyncio
import logging
import math
from pathlib import Path
from typing import Any, Dict, List, Tuple

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.rest.v2_endpoints import register_v2_endpoints
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from ..data.images import UnreadableImageError
from ..errors import InputError, one_line
from .answers import Asked
from .batcher import OverloadedError
from .guard import Guard, RefusedError, error_body
from .metrics import exposition
from .protocol import decode_request
from .service import Service

__all__ = ["build_app"]

logger = logging.getLogger(__name__)

PAGE = Path(__file__).with_name("page.html")
PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; connect-src 'self'; img-src blob: data:; "
    "script-src 'unsafe-inline'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
LENGTH = "inference-header-content-length"


def build_app(service: Service, dataplane: DataPlane) -> FastAPI:
    """The application of a loaded model."""
    app = FastAPI(title="mindcv_models", openapi_url=None)
    routes = Routes(service, dataplane)
    app.add_api_route("/", routes.page, methods=["GET"])
    app.add_api_route("/about", routes.about, methods=["GET"])
    app.add_api_route("/metrics", routes.metrics, methods=["GET"])
    app.add_api_route("/predict", routes.predict, methods=["POST"])
    app.add_api_route("/v2/models/{model_name}/infer", routes.infer, methods=["POST"])
    app.add_api_route("/v2/repository/{rest:path}", routes.fixed, methods=["POST"])  # before KServe's, which unload it
    register_v2_endpoints(app, dataplane, None)
    for kind, status in ERRORS.items():
        app.add_exception_handler(kind, _handler(status))
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(Exception, _failure)
    app.add_middleware(Guard, options=service.options)
    return app


class Routes:
    """What each address does."""

    def __init__(self, service: Service, dataplane: DataPlane):
        self.service, self.dataplane = service, dataplane
        self.html = PAGE.read_bytes()

    async def page(self) -> Response:
        return Response(self.html, media_type="text/html", headers=PAGE_HEADERS)

    async def about(self) -> Response:
        """What the page has to know."""
        return _json(
            {"model": self.service.name, "kind": self.service.kind, "max_images": self.service.options.max_images}
        )

    async def metrics(self) -> Response:
        return Response(exposition(), media_type="text/plain; version=0.0.4")

    async def fixed(self, rest: str) -> Response:
        raise RefusedError(403, "the model is chosen when the service starts, and stays")

    async def predict(self, request: Request) -> Response:
        """Pictures, as a form's files or as the body, to what is said of each."""
        images, fields = await _pictures(request, self.service.options.max_images)
        asked = _asked({**request.query_params, **fields})
        results = await asyncio.gather(*(self.service.look(name, data, asked) for name, data in images))
        return _json({"model": self.service.name, "results": results})

    async def infer(self, request: Request, model_name: str) -> Response:
        """Tensors to tensors, by the Open Inference Protocol."""
        await self.dataplane.model_ready(model_name, True)
        body, length = await request.body(), request.headers.get(LENGTH, "")
        loop = asyncio.get_running_loop()
        threads = self.service.running.threads
        decoded = await loop.run_in_executor(threads, decode_request, body, length, model_name)
        response, _ = await self.dataplane.infer(model_name, decoded, {})
        content, json_length = await loop.run_in_executor(threads, response.to_rest)
        if json_length is None:
            return _json(content)
        return Response(content, media_type="application/octet-stream", headers={LENGTH: str(json_length)})


async def _pictures(request: Request, most: int) -> Tuple[List[Tuple[str, bytes]], Dict[str, str]]:
    """Names and contents of the files of a request, and the other fields of its form."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        body = await request.body()
        if not body:
            raise RefusedError(400, "the request is empty: send a picture, as in curl -F image=@photo.jpg")
        return [("image", body)], {}
    async with request.form(max_files=most + 1, max_fields=16) as form:
        fields = {key: value for key, value in form.multi_items() if isinstance(value, str)}
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if not 1 <= len(files) <= most:
            raise RefusedError(400, f"{len(files)} files are given, but must be 1 to {most}: curl -F image=@photo.jpg")
        return [(one_line(file.filename or "image")[-200:], await file.read()) for file in files], fields


def _asked(fields: Dict[str, str]) -> Asked:
    kinds = {"topk": int, "min_score": float}
    unknown = set(fields) - set(kinds)
    if unknown:
        raise RefusedError(400, f"unknown field {one_line(min(unknown))[:80]!r}: there are {', '.join(kinds)}")
    try:
        asked = Asked(**{key: kinds[key](value) for key, value in fields.items()})
    except ValueError as error:
        raise RefusedError(400, "topk must be a whole number and min_score a number") from error
    if asked.topk < 1 or not (0 <= asked.min_score <= 1 and math.isfinite(asked.min_score)):
        raise RefusedError(400, "topk must be at least 1, and min_score from 0 to 1")
    return asked


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")


def _error(status: int, message: Any, **headers: str) -> Response:
    if status == 503:
        headers["retry-after"] = "1"
    return Response(error_body(one_line(message)), status, headers, "application/json")


ERRORS = {InvalidInput: 400, InputError: 400, RequestValidationError: 400, ModelNotFound: 404, ModelNotReady: 503,
          OverloadedError: 503, NotImplementedError: 501}  # fmt: skip


def _handler(status: int):
    async def answer(_, error) -> Response:
        if isinstance(error, UnreadableImageError):
            large = "more than" in error.reason and "pixels" in error.reason
            return _error(413 if large else 400, f"cannot decode {error.path}: {error.reason}")
        if isinstance(error, RequestValidationError):
            return _error(status, "the request is not what this address takes")
        return _error(status, error)

    return answer


async def _http_error(_, error: HTTPException) -> Response:
    return _error(error.status_code, error.detail, **(error.headers or {}))


async def _refused(_, error: RefusedError) -> Response:
    return _error(error.status, error)


async def _failure(_, error: Exception) -> Response:
    logger.error("a request failed: %s", one_line(f"{type(error).__name__}: {error}"))
    return _error(500, f"the request failed: {type(error).__name__}")

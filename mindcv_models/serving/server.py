"""KServe's model server around one exported file: one process, or several that share the port."""

import asyncio
import logging
import signal
import socket
import sys

from kserve import ModelRepository
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.rest.multiprocess.server import RESTServerMultiProcess
from kserve.protocol.rest.server import RESTServer

from ..errors import InputError
from . import metrics
from .app import build_app
from .options import ServeOptions
from .service import Service

__all__ = ["serve"]

logger = logging.getLogger(__name__)


class Server(RESTServer):
    """KServe's HTTP server with this project's application; made anew in each process."""

    def create_application(self) -> None:
        (service,) = self.dataplane.model_registry.get_models().values()
        quiet()
        service.load()
        self.config.app = build_app(service, self.dataplane)


def serve(options: ServeOptions) -> None:
    """Serve until SIGTERM or Ctrl-C; requests that are being answered are finished.

    Raises:
        InputError: the file cannot be served, or the port is in use.
    """
    service = Service(options)
    check_address(options.host, options.port)
    repository = ModelRepository()
    repository.update(service)
    service.ready = True
    server = make_server(options, repository)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    logger.info(
        "%s (%s): http://%s:%d/, %d process%s with %d threads", service.name, service.kind, options.host, options.port,
        options.workers, "es" if options.workers > 1 else "", options.threads_each,
    )  # fmt: skip
    if options.workers == 1:
        server.run()
        return
    with metrics.share_between_processes():
        asyncio.run(_supervise(server, options))


def make_server(options: ServeOptions, repository: ModelRepository) -> Server:
    server = Server(
        "",
        DataPlane(repository),
        None,
        options.port,
        workers=options.workers,
        grace_period=max(1, round(options.drain)),
    )
    server.config.host = options.host
    server.config.access_log = False
    return server


async def _supervise(server: Server, options: ServeOptions) -> None:
    """KServe's supervisor: starts the processes, replaces those that die, and ends them."""
    processes = RESTServerMultiProcess(
        "", server.dataplane, None, options.port, workers=options.workers, grace_period=max(1, round(options.drain))
    )
    processes._rest_server = server
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, processes.should_exit.set)
    await processes.start()


def check_address(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on.

    Raises:
        InputError: it is in use, or not this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        with socket.socket(family) as own:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            own.bind((host, port))
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot listen on {host} port {port} ({reason}): choose another port or host.") from error


def quiet() -> None:
    """Only warnings of the libraries."""
    for name in ("kserve", "kserve.trace", "uvicorn.error", "uvicorn.access", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)

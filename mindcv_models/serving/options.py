"""The options of ``serve.py``."""

import os
from dataclasses import dataclass
from typing import Optional

from ..errors import InputError
from ..options import Group, option

__all__ = ["ServeOptions"]

MIB = 1 << 20


@dataclass
class Address(Group):
    """Where the service listens."""

    title = "Service"

    model_file: str = option("", "an .onnx file of export.py", path=True, also=("model", "file", "onnx", "ckpt_path"))
    name: Optional[str] = option(
        None, "the model's name in addresses; default: the one in the file", also=("model_name",)
    )
    host: str = option("0.0.0.0", "address to listen on; 127.0.0.1 is this machine only")
    port: int = option(8080, "port to listen on", at_least=1, at_most=65535, also=("http_port",))
    workers: int = option(1, "processes that share the port, each with the model", at_least=1, at_most=64)
    drain: float = option(30.0, "seconds that requests have to finish after SIGTERM", at_least=0)


@dataclass
class Speed(Group):
    """How requests become batches."""

    title = "Batches"

    max_batch: int = option(8, "images that go through the model together at most", at_least=1, at_most=1024)
    max_delay: float = option(
        5.0, "milliseconds that an image waits for others at most, while the model is idle", at_least=0, at_most=10000
    )
    threads: Optional[int] = option(
        None, "threads of a process, for the model and for decoding; default: the cores by the workers", at_least=1
    )


@dataclass
class Bounds(Group):
    """What a request may ask for."""

    title = "Limits"

    max_queue: int = option(64, "requests, and images, that a process has at a time; others get 503", at_least=1)
    max_body: float = option(16.0, "MiB of a request; larger ones get 413", above=0, at_most=1024)
    max_memory: float = option(256.0, "MiB of all requests of a process at a time; others get 503", above=0)
    max_images: int = option(16, "images of a request", at_least=1)
    max_pixels: int = option(50_000_000, "pixels of an image; larger ones get 413", at_least=1)
    timeout: float = option(30.0, "seconds that a request may take to arrive; slower ones get 408", above=0)


@dataclass
class ServeOptions(Address, Speed, Bounds):
    """The options of ``serve.py``."""

    def check(self) -> None:
        if not self.model_file:
            raise InputError("model_file is missing: give --model_file an .onnx file of export.py.")
        if self.max_memory < self.max_body:
            raise InputError(
                f"max_memory is {self.max_memory:g}, but one request may have {self.max_body:g}: make it larger."
            )

    @property
    def threads_each(self) -> int:
        """Threads of a process."""
        return self.threads or max(1, len(os.sched_getaffinity(0)) // self.workers)

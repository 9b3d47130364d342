"""A model file behind KServe's interface of a model, and what it says of pictures."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
from kserve import InferRequest, InferResponse, Model
from kserve.errors import InvalidInput

from ..data.images import Picture
from .answers import Asked, task_of
from .batcher import Batcher
from .metrics import BATCHES
from .model_file import ModelFile, Tensors
from .options import ServeOptions
from .protocol import encode_response, tensors_of

__all__ = ["Service"]


@dataclass
class Running:
    """What a process has of a model once it is loaded; ``task`` feeds and reads it, threads decode for it."""

    file: ModelFile
    task: Any
    batcher: Batcher
    threads: ThreadPoolExecutor


class Service(Model):
    """The model of the options. It can be sent to another process, which loads it anew.

    Raises:
        InputError: the file is none of ``export.py``.
    """

    def __init__(self, options: ServeOptions):
        file = ModelFile(options.model_file)
        super().__init__(options.name or file.name)
        self.options = options
        self.kind = task_of(file).kind
        self.running: Optional[Running] = None

    def __getstate__(self):
        return {**self.__dict__, "running": None}

    def load(self) -> bool:
        """Load the file in this process, ready for requests."""
        options = self.options
        file = ModelFile(options.model_file, options.threads_each)
        batcher = Batcher(
            file.run, file.fixed or options.max_batch, options.max_delay / 1000, options.max_queue, BATCHES.observe
        )
        self.running = Running(file, task_of(file), batcher, ThreadPoolExecutor(options.threads_each, "decode"))
        self.ready = True
        return True

    async def look(self, name: str, data: bytes, asked: Asked) -> Dict[str, Any]:
        """What is said of one image file.

        Raises:
            UnreadableImageError: it cannot be decoded, or is too large.
            OverloadedError: too many images wait.
        """
        running, loop = self.running, asyncio.get_running_loop()
        tensors, size = await loop.run_in_executor(running.threads, self._prepare, name, data)
        outputs = await running.batcher.submit(tensors)
        if running.task.quick:
            row = running.task.answer(outputs, size, asked)
        else:
            row = await loop.run_in_executor(running.threads, running.task.answer, outputs, size, asked)
        return {"image": name, **row}

    def _prepare(self, name: str, data: bytes) -> Tuple[Tensors, Tuple[int, int]]:
        pixels = Picture(name, data=data, max_pixels=self.options.max_pixels).pixels()
        return self.running.task.prepare(pixels), pixels.shape[:2]

    async def preprocess(self, payload, headers=None) -> InferRequest:
        if not isinstance(payload, InferRequest):
            raise InvalidInput("use the protocol's version 2, or send pictures to /predict")
        return payload

    async def predict(self, payload: InferRequest, headers=None, response_headers=None) -> InferResponse:
        """The model's outputs for the tensors of a request."""
        running = self.running
        tensors = tensors_of(payload, running.file, running.batcher.max_batch)
        outputs = await running.batcher.submit(tensors)
        return encode_response(payload, running.file, outputs)

    def get_input_types(self) -> List[Dict[str, Any]]:
        return [_described(value) for value in self.running.file.inputs]

    def get_output_types(self) -> List[Dict[str, Any]]:
        return [_described(value) for value in self.running.file.outputs]


def _described(value) -> Dict[str, Any]:
    return {"name": value.name, "datatype": value.datatype, "shape": np.asarray(value.shape).tolist()}

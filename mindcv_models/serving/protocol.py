"""Tensors of the Open Inference Protocol v2, checked against what the model takes: in JSON, or binary behind it."""

import math
from typing import Any, Dict, List

import numpy as np
import orjson
from kserve import InferInput, InferOutput, InferRequest, InferResponse
from kserve.errors import InvalidInput
from kserve.protocol.infer_type import RequestedOutput

from ..errors import shown
from .model_file import ModelFile, Tensors, Value

__all__ = ["decode_request", "encode_response", "tensors_of"]

DTYPES = {"FP32": np.dtype("<f4"), "FP16": np.dtype("<f2"), "INT64": np.dtype("<i8")}
MOST_NUMBERS = 1 << 21  # in JSON; more of them are sent as binary


def decode_request(body: bytes, json_length: str, name: str) -> InferRequest:
    """A request: JSON, and behind its first ``json_length`` bytes (empty: all of them) binary tensors.

    Raises:
        InvalidInput: the body is not what the protocol says.
    """
    if json_length and not (json_length.isascii() and json_length.isdecimal() and int(json_length) <= len(body)):
        raise InvalidInput(f"inference-header-content-length is {shown(json_length)}: give the length of the JSON.")
    end = int(json_length) if json_length else len(body)
    try:
        request = orjson.loads(body[:end])
    except ValueError as error:
        raise InvalidInput(f"the request is no JSON ({error})") from error
    _expect(isinstance(request, dict), "the request must be a JSON object with inputs")
    parameters = request.get("parameters") or {}
    _expect(isinstance(parameters, dict), "parameters must be an object")
    inputs, offset = [], end
    for entry in _list(request, "inputs"):
        own, size = _input(entry, body, offset)
        inputs.append(own)
        offset += size
    _expect(offset == len(body), f"{len(body) - offset} bytes are left behind the inputs: check binary_data_size")
    outputs = [_output(entry) for entry in _list(request, "outputs")] if request.get("outputs") else None
    number = request.get("id")
    _expect(number is None or isinstance(number, str), "id must be text")
    return InferRequest(name, inputs, number, parameters=parameters, request_outputs=outputs)


def _expect(condition: Any, message: str) -> None:
    if not condition:
        raise InvalidInput(message)


def _list(request: Dict[str, Any], key: str) -> List[Dict[str, Any]]:
    entries = request.get(key)
    _expect(isinstance(entries, list) and entries, f"{key} must be a list with an entry for each tensor")
    for entry in entries:
        _expect(isinstance(entry, dict) and isinstance(entry.get("name"), str), f"{key}: each entry needs a name")
        parameters = entry.get("parameters")
        _expect(parameters is None or isinstance(parameters, dict), f"{entry['name'][:80]}: parameters is no object")
    return entries


def _output(entry: Dict[str, Any]) -> RequestedOutput:
    return RequestedOutput(entry["name"], entry.get("parameters"))


def _input(entry: Dict[str, Any], body: bytes, offset: int):
    """An input with its array, and how many bytes of the body it takes."""
    name, shape, datatype = entry["name"][:80], entry.get("shape"), entry.get("datatype")
    _expect(datatype in DTYPES, f"{name}: datatype is {shown(datatype)}, but must be one of {', '.join(DTYPES)}")
    _expect(
        isinstance(shape, list)
        and len(shape) <= 8
        and all(type(side) is int and 0 <= side < 1 << 31 for side in shape),
        f"{name}: shape is {shown(shape)}, but must be a list of sides",
    )
    size = (entry.get("parameters") or {}).get("binary_data_size")
    if "data" in entry:
        array, used = _from_json(entry["data"], DTYPES[datatype], name), 0
    else:
        _expect(type(size) is int and 0 <= size <= len(body) - offset, f"{name} has no data")
        _expect(size % DTYPES[datatype].itemsize == 0, f"{name}: {size} bytes are no whole number of {datatype}")
        array, used = np.frombuffer(body, DTYPES[datatype], size // DTYPES[datatype].itemsize, offset), size
    _expect(array.size == math.prod(shape), f"{name} has {array.size} numbers, but its shape is {shown(shape)}")
    return InferInput(name, shape, datatype, array.reshape(shape)), used


def _from_json(data: Any, dtype: np.dtype, name: str) -> np.ndarray:
    try:
        array = np.array(data)
        _expect(array.dtype.kind in "iuf" or array.size == 0, f"{name}: data must be numbers")
        return array.astype(dtype)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"{name}: data must be numbers, in a list or in nested lists of one length") from error


def tensors_of(request: InferRequest, file: ModelFile, max_batch: int) -> Tensors:
    """The arrays of a request, by the names of the model's inputs.

    Raises:
        InvalidInput: inputs are missing, unknown, twice or misshapen, or there are too many rows.
    """
    given = {each.name: each for each in request.inputs}
    wanted = [value.name for value in file.inputs]
    _expect(
        len(given) == len(request.inputs) and set(given) == set(wanted),
        f"inputs are {', '.join(given)[:200]}, but must be {', '.join(wanted)}, each once",
    )
    for value in file.inputs:
        _check(given[value.name], value)
    rows = {each.shape[0] for each in request.inputs}
    _expect(len(rows) == 1, f"the inputs have {' and '.join(map(str, sorted(rows)))} rows, but must have as many each")
    most = file.fixed or max_batch
    _expect(1 <= min(rows) <= most, f"{min(rows)} images are given, but must be 1 to {most}: send several requests")
    known = set(file.names)
    for output in request.request_outputs or ():
        _expect(output.name in known, f"there is no output {output.name[:80]}: it must be {', '.join(file.names)}")
    return {name: np.asarray(each.data) for name, each in given.items()}


def _check(given: InferInput, value: Value) -> None:
    fits = len(given.shape) == len(value.shape) and all(
        want in (-1, have) for have, want in zip(given.shape[1:], value.shape[1:])
    )
    sides = ", ".join(["any", *map(str, value.shape[1:])])
    _expect(fits, f"{value.name} has the shape {shown(given.shape)}, but must have ({sides})")
    _expect(given.datatype == value.datatype, f"{value.name} is {given.datatype}, but must be {value.datatype}")


def encode_response(request: InferRequest, file: ModelFile, outputs: List[np.ndarray]) -> InferResponse:
    """The answer to a request, in the form that it asks for.

    Raises:
        InvalidInput: so many numbers are not written as JSON.
    """
    binary = request.use_binary_outputs is True
    asked = request.request_outputs
    for each in asked or ():
        each.parameters = {"binary_data": (each.parameters or {}).get("binary_data", binary) is True}
    as_text = {each.name for each in asked if not each.binary_data} if asked else () if binary else set(file.names)
    made = []
    for value, array in zip(file.outputs, outputs):
        large = value.name in as_text and array.size > MOST_NUMBERS
        _expect(not large, f"{value.name} has {array.size} numbers: ask for binary data, by binary_data_output")
        array = np.ascontiguousarray(array)
        made.append(InferOutput(value.name, list(array.shape), value.datatype, array))
    return InferResponse(request.id or "", request.model_name, made, use_binary_outputs=binary, requested_outputs=asked)

"""An exported ONNX file in ONNX Runtime, and what it says of itself."""

import json
import re
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import numpy as np
import onnxruntime

from ..errors import InputError, one_line

__all__ = ["METADATA_KEY", "ModelFile", "Tensors", "Value"]

METADATA_KEY = "mindcv_models"  # of graph.py, which needs MindSpore
TYPES = {"tensor(float)": "FP32", "tensor(int64)": "INT64", "tensor(float16)": "FP16"}

Tensors = Dict[str, np.ndarray]  # by name, with a row for each image


class Value(NamedTuple):
    """An input or output: its name, the datatype as the Open Inference Protocol calls it, and its shape, -1 for any."""

    name: str
    datatype: str
    shape: Tuple[int, ...]


class ModelFile:
    """A model that runs; its inputs and outputs, and ``about``, the metadata that ``export.py`` wrote.

    Attributes:
        fixed: the batch size that the file is for, or 0 for any.

    Raises:
        InputError: the file is not ONNX, or not one of ``export.py``.
    """

    def __init__(self, path: str, threads: int = 1):
        if not Path(path).is_file():
            raise InputError(f"no file at {path}: give --model_file an .onnx file of export.py.")
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
        settings.log_severity_level = 4
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")  # decoding needs the cores too
        try:
            self.session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has a class of error for each reason
            reason = one_line(error)[-200:]  # after the place in its source
            advice = "give an .onnx file of export.py, with the file of its weights beside it"
            if re.search(r"max supported IR version|support for domain .* is till opset", reason, re.IGNORECASE):
                advice = "the file is newer than that, so install a newer onnxruntime"
            raise InputError(
                f"{path} cannot be run by ONNX Runtime {onnxruntime.__version__} ({reason}): {advice}."
            ) from error
        self.about = _metadata(self.session, path)
        self.inputs = [_value(each) for each in self.session.get_inputs()]
        self.outputs = [_value(each) for each in self.session.get_outputs()]
        self.fixed = max(self.inputs[0].shape[0], 0)
        self.name = str(self.about.get("model") or Path(path).stem)

    @property
    def size(self) -> Tuple[int, int]:
        """Height and width of the input."""
        return self.inputs[0].shape[2:]

    @property
    def names(self) -> List[str]:
        """The output names."""
        return [output.name for output in self.outputs]

    def run(self, batches: Sequence[Tensors]) -> List[List[np.ndarray]]:
        """The outputs for each of some batches, all of which go through the model together."""
        counts = [len(batch[self.inputs[0].name]) for batch in batches]
        given = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        missing = self.fixed - sum(counts) if self.fixed else 0
        if missing > 0:
            given = {name: np.concatenate([rows, np.repeat(rows[:1], missing, 0)]) for name, rows in given.items()}
        outputs = self.session.run(None, given)
        ends = np.cumsum(counts)
        return [self._part(outputs, end - count, end) for count, end in zip(counts, ends)]

    def _part(self, outputs, start, end):
        if self.outputs[0].name != "detections":
            return [output[start:end] for output in outputs]
        image = outputs[0][:, 0]  # the place of each object's image
        own = (image >= start) & (image < end)
        rows = outputs[0][own].copy()
        rows[:, 0] -= start
        return [rows, *(output[own] for output in outputs[1:])]


def _value(node) -> Value:
    if node.type not in TYPES:
        raise InputError(
            f"the model's {node.name} is {node.type}, which is not served: give an .onnx file of export.py."
        )
    return Value(node.name, TYPES[node.type], tuple(side if isinstance(side, int) else -1 for side in node.shape))


def _metadata(session, path) -> Dict[str, Any]:
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    try:
        about = json.loads(text or "")
        complete = {"image_size", "crop_pct", "crop_mode", "interpolation", "mean", "std"} <= set(about)
    except (ValueError, TypeError):
        complete = False
    if not complete:
        raise InputError(f"{path} does not say how images are prepared for it: give an .onnx file of export.py.")
    return about

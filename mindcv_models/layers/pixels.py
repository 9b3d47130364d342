"""Sums over pixels that a segmenter's losses are made of."""

import functools
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from .. import backend
from .custom import Loops, in_graph_mode
from .resize import resize

__all__ = ["PixelSums"]

_SOURCE = Path(__file__).with_suffix(".cc")


class PixelSums(nn.Cell):
    """Logits ``(B, K, h, w)``, labels ``(B, H, W)`` int32 and weights ``(K,)`` of the classes to five sums over pixels.

    The logits are enlarged to the labels' size, bilinear between pixel centres, and are ``p`` after a softmax over
    classes. Pixels with a negative label count in no sum. The sums, in float32:

    * cross entropy, each pixel's times the weight of its class, a scalar;
    * pixels whose largest logit is that of their label, a scalar without gradient;
    * ``p`` of a pixel's own class, ``(K,)``, by that class;
    * ``p``, ``(K,)``;
    * pixels, ``(K,)``, by their label, without gradient.

    On the CPU, in graph mode, they are one operator in C++, and so is the gradient: without, the segmenter's logits and
    probabilities would be kept at the size of the labels several times.
    """

    def __init__(self):
        super().__init__()
        library = backend.compile_library(_SOURCE)
        self.loops = library and _loops(library)

    def construct(self, logits, labels, weights):
        logits = logits.astype(ms.float32)
        if self.loops is None or not in_graph_mode():
            return self.by_operators(logits, labels, weights)
        classes = logits.shape[1]
        sums = self.loops(logits, labels, weights)
        common, probabilities, pixels = sums[2:].reshape(3, classes)
        return sums[0], sums[1], common, probabilities, pixels

    def by_operators(self, logits, labels, weights):
        logits = resize(logits, *labels.shape[1:])  # (B, K, H, W)
        predictions = ops.argmax(logits, 1).astype(ms.int32)  # (B, H, W)
        largest = ops.stop_gradient(ops.gather_elements(logits, 1, predictions.expand_dims(1)))
        logits = logits - largest
        known = ops.maximum(labels, 0)
        own = ops.gather_elements(logits, 1, known.expand_dims(1)).squeeze(1)
        shares = ops.exp(logits)
        total = shares.sum(1)
        counts = (labels >= 0).astype(ms.float32)
        entropy = (ops.log(total) - own) * ops.gather(weights, known, 0) * counts
        hits = ops.equal(predictions, labels).astype(ms.float32)
        probabilities = shares * (counts / total).expand_dims(1)
        classes = Tensor(np.arange(logits.shape[1], dtype=np.int32).reshape(1, -1, 1, 1))
        targets = ops.equal(labels.expand_dims(1), classes).astype(ms.float32)  # (B, K, H, W)
        by_class = [maps.sum((0, 2, 3)) for maps in (probabilities * targets, probabilities, targets)]
        return entropy.sum(), hits.sum(), *by_class


@functools.cache
def _loops(library: Path) -> Loops:
    def gradients(logits, labels, weights, out, dout):
        return differentiate(logits, labels, weights, dout), ops.zeros_like(labels), ops.zeros_like(weights)

    def first(logits, *_):
        return logits

    differentiate = Loops(f"{library}:pixel_sums_gradient", first, first, "aot")
    return Loops(f"{library}:pixel_sums", lambda logits, *_: (2 + 3 * logits[1],), first, "aot", bprop=gradients)

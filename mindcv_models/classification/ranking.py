"""From logits to the most probable classes, as ``infer.py`` and the service tell them."""

from typing import Any, Dict, List, Sequence

import numpy as np
from scipy.special import softmax

__all__ = ["best", "probabilities"]


def probabilities(logits: np.ndarray) -> np.ndarray:
    """The softmax over the last axis, in float64."""
    return softmax(logits.astype(np.float64), axis=-1)


def best(scores: np.ndarray, names: Sequence[str], count: int) -> List[Dict[str, Any]]:
    """The ``count`` most probable classes of an image, by its probabilities ``(K,)``; equal ones by label."""
    order = (-scores).argsort(kind="stable")[:count]
    return [{"class": names[k], "label": int(k), "probability": round(float(scores[k]), 6)} for k in order]

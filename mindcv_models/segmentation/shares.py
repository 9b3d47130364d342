"""How much of a picture each class takes, as ``infer.py`` and the service tell it."""

from typing import Any, Dict, List, Sequence

import numpy as np

__all__ = ["shares"]


def shares(labels: np.ndarray, names: Sequence[str]) -> List[Dict[str, Any]]:
    """The classes in a label map, the largest first, with their shares of its pixels."""
    counts = np.bincount(labels.ravel(), minlength=len(names))
    order = [k for k in (-counts).argsort(kind="stable") if counts[k]]
    return [{"class": names[k], "label": int(k), "share": round(float(counts[k] / labels.size), 6)} for k in order]

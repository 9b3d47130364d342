"""From image folders to batches.

``folders`` checks what is there, ``images`` reads one image, ``order`` says which image comes when, ``transforms``,
``augment`` and ``mixing`` change it, and ``loader`` and ``evaluation`` make batches.
"""

from .evaluation import batches, create_eval_loader
from .folders import find_bad_images, prepare, write_digits
from .loader import TrainLoader, create_train_loader
from .transforms import EvalTransform

__all__ = [
    "EvalTransform",
    "TrainLoader",
    "batches",
    "create_eval_loader",
    "create_train_loader",
    "find_bad_images",
    "prepare",
    "write_digits",
]

"""From image folders to batches.

``folders`` checks what is there and ``split`` divides it; ``images`` reads one image, ``order`` says which comes when,
``transforms``, ``augment`` and ``mixing`` change it, and ``loader`` and ``evaluation`` make batches.
"""

from .evaluation import batches, create_eval_loader
from .files import IMAGE_SUFFIXES, LAYOUT
from .folders import class_names, find_bad_images, prepare, write_digits
from .images import STANDARD_DATASETS, list_images
from .loader import TrainLoader, create_train_loader
from .transforms import EvalTransform

__all__ = [
    "IMAGE_SUFFIXES",
    "LAYOUT",
    "STANDARD_DATASETS",
    "EvalTransform",
    "TrainLoader",
    "batches",
    "class_names",
    "create_eval_loader",
    "create_train_loader",
    "find_bad_images",
    "list_images",
    "prepare",
    "write_digits",
]

"""FastViT, FasterViT and LITv2 for MindSpore. Importing this registers every model in MindCV's registry.

Where the environment variable MINDCV_MODELS_SERVING is set, as by ``serve.py``, nothing is imported: exported files are
served without MindSpore and the models.
"""

import os

__version__ = "0.1.0"  # the package's version is stated here alone

if not os.environ.get("MINDCV_MODELS_SERVING"):
    from .checkpoint import load_torch_checkpoint
    from .create import create_model
    from .models import list_models
    from .pretrained import list_pretrained
    from .reparameterize import reparameterize

    __all__ = ["create_model", "list_models", "list_pretrained", "load_torch_checkpoint", "reparameterize"]

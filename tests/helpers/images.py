"""Images and image folders, and the options that read them."""

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

from mindcv_models.classification.options import TrainOptions

PHOTO = load_sample_image("china.jpg")[:120:2, :200:2]  # (60, 100, 3)


def image_folder(root, train=(("a", 6), ("b", 7)), val=(("a", 3), ("b", 4))):
    """An image folder whose images are flat; their grey level tells them apart."""
    level = 0
    for split, classes in (("train", train), ("val", val)):
        for name, count in classes:
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                level += 7
                Image.fromarray(np.full((40, 40, 3), level, np.uint8)).save(root / split / name / f"{i}.png")
    return root


def noise_folder(root, images=24):
    """An image folder of two classes; no two images, and no two views of one, look the same."""
    rng = np.random.default_rng(0)
    for i in range(images):
        path = root / "train" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(256, size=(48, 56, 3), dtype=np.uint8)).save(path)
    return root


def options(root, **changes):
    given = {"image_resize": 32, "crop_pct": 1.0, "mean": (0.0,) * 3, "std": (1.0,) * 3, "num_parallel_workers": 1}
    return TrainOptions(**{"data_dir": str(root), "batch_size": 4, **given, **changes})

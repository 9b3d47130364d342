"""COCO folders of a few small images."""

import json

import numpy as np
from PIL import Image

SIZES = ((40, 60), (64, 48), (50, 50), (36, 72))  # height and width


def annotation(number, image, category, box, **changes):
    return {"id": number, "image_id": image, "category_id": category, "bbox": box, "iscrowd": 0,
            "area": box[2] * box[3], **changes}  # fmt: skip


def content():
    """Four images of noise; categories 3 and 7; one image without objects, a crowd, and boxes that do not count."""
    images = [{"id": 10 * (k + 1), "file_name": f"{k}.png", "height": h, "width": w} for k, (h, w) in enumerate(SIZES)]
    annotations = [
        annotation(1, 10, 7, [5, 6, 20, 30]),
        annotation(2, 10, 3, [30, 2, 40, 20]),  # leaves the image, 60 wide
        annotation(3, 20, 3, [1.5, 2.25, 10, 12.5]),
        annotation(4, 20, 3, [0, 0, 48, 64], iscrowd=1),
        annotation(5, 20, 7, [3, 3, 0.5, 9]),  # less than a pixel wide
        annotation(6, 20, 7, [100, 3, 9, 9]),  # outside
        annotation(7, 20, 7, [3, 3, 9, 9], area=0),
        annotation(8, 20, 7, [3, 3, 9, 9], ignore=True),
        annotation(9, 40, 7, [0, 0, 10, 10], iscrowd=1),  # nothing but a crowd
    ]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 7, "name": "seven"}, {"id": 3, "name": "three"}],
    }


def write(root, split="train2017", what=None):
    """A split of a COCO folder; the path of its annotations."""
    what = content() if what is None else what
    (root / split).mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for k, (height, width) in enumerate(SIZES):
        Image.fromarray(rng.integers(256, size=(height, width, 3), dtype=np.uint8)).save(root / split / f"{k}.png")
    path = root / "annotations" / f"instances_{split}.json"
    path.write_text(json.dumps(what))
    return path

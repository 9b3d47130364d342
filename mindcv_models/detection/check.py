"""What ``--check_data`` finds in a COCO folder."""

from collections import Counter
from typing import List

from ..data.check import Part, inspect
from ..distributed import ONE_DEVICE
from .coco import LEAST_SIDE, find_annotations, find_images, read_coco
from .data import with_data
from .options import TrainOptions
from .systems import system_of

__all__ = ["look_at_data"]


def look_at_data(options: TrainOptions) -> List[Part]:
    """The training and the validation images with their objects, each decoded once."""
    train, val = Part("train"), Part("val")
    options = train.attempt(lambda: with_data(options, ONE_DEVICE)) or options
    parts = [train]
    if options.val_while_train or _paths(options, "val")[0].exists():
        parts.append(val)
    categories = [_look(part, options) for part in parts]
    if None not in categories and len(set(categories)) > 1:
        val.faults.append("its categories are others than those of the training annotations.")
    if categories[0] is not None and options.num_classes not in (None, len(categories[0])):
        train.faults.append(f"num_classes is {options.num_classes}, but there are {len(categories[0])} categories.")
    return parts


def _paths(options, name):
    given, split = getattr(options, f"{name}_annotations"), getattr(options, f"{name}_split")
    return (
        find_annotations(given, options.data_dir, split),
        find_images(options.image_dir, given, options.data_dir, split),
    )


def _look(part: Part, options: TrainOptions):
    """The categories; None if the annotations cannot be read."""
    data = part.attempt(lambda: read_coco(*_paths(options, part.name)))
    if data is None:
        return None
    part.notes[f"{part.name}: categories that are classes of their own"] = data.twins()
    images = data.images
    if part.name == "train":
        empty = [image for image in images if not image.annotated]
        small = [image for image in images if image.annotated and min(image.height, image.width) < LEAST_SIDE]
        part.left_out = {"images without objects": len(empty), f"images below {LEAST_SIDE} pixels": len(small)}
        data = part.attempt(data.to_train) or data
    part.images = len(data)
    objects = Counter(int(k) for image in data.images for k in image.classes)
    part.counts = {category.name: objects[k] for k, category in enumerate(data.categories)}
    part.missing = [name for name, count in part.counts.items() if not count]
    kept = sum(objects.values())
    part.left_out["objects that are crowds, ignored, or without area"] = sum(i.annotated for i in data.images) - kept
    check_objects = system_of(options.model).check_objects

    def note(index, content):
        image = data.read(index, content).image
        check_objects(image)
        return image.height, image.width

    part.sizes = inspect(part, data, note, options.num_parallel_workers)
    return data.categories

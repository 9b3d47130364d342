"""Validation batches, over MindCV's."""

import re

import mindspore.dataset as ds
from mindcv.data import create_dataset, create_loader, create_transforms
from mindspore.dataset import vision
from mindspore.dataset.core.config import ErrorSamplesMode

from ..data.files import class_folders, image_names
from ..data.loader import threads
from ..errors import InputError, RunError
from .images import STANDARD_DATASETS, split_root
from .options import ImageFolder
from .split import read_split
from .transforms import EvalTransform

__all__ = ["batches", "create_eval_loader"]

_BAD_IMAGES = {"raise": ErrorSamplesMode.RETURN, "skip": ErrorSamplesMode.SKIP}


def create_eval_loader(options: ImageFolder, rank: int = 0, ranks: int = 1):
    """Batches of this rank's share of the validation images, each image on exactly one rank, the last one short.

    Returns:
        The loader, or None if there are fewer images than ranks and none is left for this one; and the number of
        images on all ranks together.
    """
    dataset = _create_dataset(options)
    places = _places(options) if options.split_file else range(dataset.get_dataset_size())
    share = places[rank::ranks]
    if not share:
        return None, len(places)
    dataset.use_sampler(ds.SubsetSampler(list(share)))
    own = EvalTransform.resolve(options)
    small = _standard_name(options)
    if small:
        transform = create_transforms(small, own.image_resize, is_training=False)
    else:
        transform = [vision.Decode(), own.resize, own.crop, *own.normalise()]
    loader = create_loader(
        dataset=dataset,
        batch_size=options.batch_size,
        drop_remainder=False,
        is_training=False,
        transform=transform,
        num_parallel_workers=threads(options.num_parallel_workers),
    )
    return loader, len(places)


def batches(loader, bad_images: str = "raise"):
    """The images ``(B, C, H, W)`` and labels ``(B,)`` of ``loader``, batch by batch, once.

    Args:
        bad_images: what happens at an image that cannot be decoded: ``"raise"``, or ``"skip"`` it, so that each image
            is counted once.

    Raises:
        InputError: at such an image, naming it.
        RunError: the pipeline failed otherwise.
    """
    ds.config.set_error_samples_mode(_BAD_IMAGES[bad_images])
    try:
        yield from loader.create_tuple_iterator(num_epochs=1)
    except RuntimeError as error:
        found = re.search(r"corresponding data file is: (.+?)\. ", str(error))
        if not found:
            reason = next((line for line in str(error).splitlines() if line.strip(" -")), type(error).__name__)
            raise RunError(f"a data worker of the validation died ({reason}).") from error
        raise InputError(
            f"cannot decode image {found[1]}: replace or remove it, or use --skip_bad_images True to go on without it."
        ) from error


def _create_dataset(options: ImageFolder):
    name = _standard_name(options)
    return create_dataset(
        name=name,
        root=options.data_dir,
        split="test" if name else "" if options.split_file else options.val_split,
        shuffle=False,
        num_parallel_workers=threads(options.num_parallel_workers),
        download=options.dataset_download,
    )


def _places(options: ImageFolder):
    """Where the validation images of a split folder are among all its images, which MindSpore sorts by name."""
    root = split_root(options, options.val_split)
    every = [f"{folder}/{name}" for folder in class_folders(root) for name in image_names(root / folder)]
    chosen = set(read_split(options, options.val_split))
    return [place for place, name in enumerate(every) if name in chosen]


def _standard_name(options: ImageFolder) -> str:
    name = options.dataset.lower()
    return name if name in STANDARD_DATASETS else ""

"""Mean IoU and what goes with it over a data set, on any number of devices."""

from typing import Tuple

import numpy as np
from mindspore import nn

from ..data.loader import Loader, threads
from ..data.order import ShareOrder
from ..distributed import ONE_DEVICE, World, sum_of_counts
from ..errors import InputError, RunError
from ..evaluation import Result
from .folders import Tolerant, list_pictures
from .inference import Inference, InferenceSettings
from .metrics import Scores, confusion_matrix

__all__ = ["SegmentationValidator", "settings_of"]


class SegmentationValidator:
    """Validates a segmenter on the validation split of the options; see :class:`mindcv_models.evaluation.Validator`."""

    columns: Tuple[str, ...] = ("miou", "mean_accuracy", "pixel_accuracy")

    def __init__(self, network: nn.Cell, options, world: World = ONE_DEVICE):
        self.classes = options.num_classes
        self.world = world
        self.pictures = list_pictures(options, training=False)
        workers = threads(options.num_parallel_workers)
        self.inference = Inference(network, settings_of(options), options.batch_size, workers)
        order = ShareOrder(len(self.pictures), world.rank, world.size)
        self.loader = Loader(
            Tolerant(self.pictures) if options.skip_bad_images else self.pictures, order, lambda raw, _: raw,
            options.batch_size, lambda samples, _: [pair for pair in samples if pair is not None], last="keep",
            workers=workers,
        )  # fmt: skip

    def scores(self) -> Scores:
        """The scores of the network's current weights, over the pictures of all ranks."""
        total, images = np.zeros((self.classes, self.classes), np.int64), 0
        for pairs in self._batches():
            for (_, labels), predicted in zip(pairs, self.inference([picture for picture, _ in pairs])):
                total += confusion_matrix(labels, predicted, self.classes)
                images += 1
        counts = sum_of_counts(np.append(total.ravel(), images), self.world)
        if not counts[-1]:
            raise InputError("no picture of the validation split can be decoded: check data_dir and val_images.")
        return Scores(counts[:-1].reshape(total.shape), int(counts[-1]))

    def _batches(self):
        try:
            yield from self.loader.epoch()
        except (InputError, RunError) as error:
            error.of_one_rank = True
            raise

    def __call__(self) -> Result:
        scores = self.scores()
        return Result(scores.values, scores.values["miou"], scores.images, text=in_words(scores))


def in_words(scores: Scores) -> str:
    """The figures in one line."""
    values, pictures = scores.values, scores.images
    return (
        f"mIoU {100 * values['miou']:.2f} %, mean accuracy {100 * values['mean_accuracy']:.2f} %, pixel accuracy "
        f"{100 * values['pixel_accuracy']:.2f} % on {pictures} images"
    )


def settings_of(options) -> InferenceSettings:
    """How the options say that pictures are predicted."""
    slides = options.inference == "slide"
    stride = options.stride or tuple(max(1, 2 * side // 3) for side in options.window)
    return InferenceSettings(
        options.img_scale,
        *options.mean_and_std,
        options.window if slides else None,
        stride if slides else None,
        options.pad_divisor,
        options.tta_ratios,
        options.tta_flip,
    )

"""Training batches that any run can repeat."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Optional

import numpy as np
from mindspore import Tensor

from ..data.images import STANDARD_DATASETS, ImageSet, list_images, workers
from ..data.order import BATCH, SAMPLE, EpochOrder, generator
from ..errors import InputError, RunError
from ..options import Options
from .mixing import Mixing, one_hot
from .transforms import SmallImageTransform, TrainTransform

__all__ = ["TrainLoader", "create_train_loader"]


class TrainLoader:
    """Batches of this rank's share of the training images, made by threads ahead of time.

    Every random number comes from a generator made for its purpose, epoch and place in the epoch, so a batch depends
    on the seed, the epoch, the step, the rank and the number of ranks, and on nothing that ran before it.

    Args:
        transform: ``(H, W, C)`` uint8 and a generator to ``(C, H, W)`` float32. For JPEG files its ``reduction`` is
            called before, with an equal generator, and the image's size is its third argument.
        mixing: mixup and cutmix, or None.
        classes: makes labels ``(B, classes)`` ones and zeros; None leaves them ``(B,)`` class numbers.
        replace_bad: take the next image in place of one that cannot be decoded, rather than raise.
        workers: threads; one batch each is under way, and one more.
    """

    def __init__(self, images: ImageSet, order: EpochOrder, transform, batch_size: int, drop_remainder: bool = True,
                 mixing: Optional[Mixing] = None, classes: Optional[int] = None, replace_bad: bool = False,
                 workers: int = 1):  # fmt: skip
        self.images = images
        self.order = order
        self.transform = transform
        self.batch_size = batch_size
        self.mixing = mixing
        self.classes = classes
        self.replace_bad = replace_bad
        self.workers = workers
        self.steps = len(order) // batch_size if drop_remainder else -(-len(order) // batch_size)

    def __len__(self) -> int:
        return self.steps

    def get_dataset_size(self) -> int:
        """Steps an epoch, by the name that MindSpore gives it."""
        return self.steps

    def epoch(self, number: int, first_step: int = 0):
        """An iterator over the batches of epoch ``number``, counted from 1, from step ``first_step``, counted from 0.

        Yields images ``(B, C, H, W)`` float32 and labels ``(B,)`` int32 or ``(B, classes)`` float32. Batches before
        ``first_step`` are not made.

        Raises:
            InputError: at an image that cannot be read or decoded, naming it.
            RunError: a worker failed otherwise, such as for want of memory.
        """
        shown = self.order(number)
        steps = iter(range(first_step, self.steps))
        with ThreadPoolExecutor(self.workers, "data") as pool:
            ahead = deque(pool.submit(self._batch, shown, number, step) for step in islice(steps, self.workers + 1))
            try:
                while ahead:
                    images, labels = _result(ahead.popleft())
                    ahead.extend(pool.submit(self._batch, shown, number, step) for step in islice(steps, 1))
                    yield Tensor.from_numpy(images), Tensor.from_numpy(labels)
            finally:
                pool.shutdown(cancel_futures=True)

    def _batch(self, shown, epoch, step):
        places = range(step * self.batch_size, min((step + 1) * self.batch_size, len(shown)))
        rows = [self._sample(int(shown[place]), epoch, place) for place in places]
        images = np.stack([image for image, _ in rows])
        labels = np.array([label for _, label in rows], np.int32)
        if self.mixing is not None:
            return self.mixing(images, labels, generator(self.order.seed, BATCH, epoch, step, self.order.rank))
        return images, one_hot(labels, self.classes) if self.classes else labels

    def _sample(self, index, epoch, place):
        # Places are counted over all ranks, so that two views of an image always differ.
        key = (self.order.seed, SAMPLE, epoch, place * self.order.ranks + self.order.rank)
        image, label, *whole = self._read(index, key)
        return self.transform(image, generator(*key), *whole), label

    def _read(self, wanted, key):
        """Image, label, and of a JPEG file the height and width that it has before it is shrunk."""
        for offset in range(len(self.images)):
            index = (wanted + offset) % len(self.images)
            reduction = _Reduction(self.transform, key)
            image = self.images.read(index, reduction)
            if image is not None:
                return image, self.images.labels[index], *reduction.whole
            if not self.replace_bad:
                raise InputError(
                    f"cannot decode image {self.images.items[index]}: replace or remove it, or use "
                    "--skip_bad_images True to go on without it."
                )
        raise InputError("no training image can be decoded: check data_dir.")


class _Reduction:
    """What the transform says of one JPEG image, and the size that it was asked about."""

    def __init__(self, transform, key):
        self.transform, self.key = transform, key
        self.whole = ()

    def __call__(self, height, width):
        self.whole = ((height, width),)
        return self.transform.reduction(height, width, generator(*self.key))


def _result(future):
    try:
        return future.result()
    except InputError:
        raise
    except BaseException as error:
        # One that is not an Exception, such as SystemExit, must not look like the main thread's own.
        if isinstance(error, KeyboardInterrupt):
            raise
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        raise RunError(f"a data worker died ({what}); checkpoints stay as they are.") from error


def create_train_loader(options: Options, rank: int = 0, ranks: int = 1) -> TrainLoader:
    """Batches ``(images (B, C, H, W), labels (B,) or (B, classes))`` of this rank's share of the training images.

    Raises:
        InputError: an augmentation that is not known, or fewer images than make a batch.
    """
    images = list_images(options, options.train_split)
    if options.num_samples is not None and options.num_samples < len(images):
        images = images.some(options.num_samples, options.seed)
    weights = 1 / np.bincount(images.labels)[images.labels] if options.class_balanced_sampling else None
    views = max(options.aug_repeats, 1)
    mixes = options.mixup + options.cutmix > 0
    loader = TrainLoader(
        images,
        EpochOrder(len(images), options.seed, options.shuffle, views, weights, rank, ranks),
        SmallImageTransform(options) if options.dataset.lower() in STANDARD_DATASETS else TrainTransform(options),
        options.batch_size,
        options.drop_remainder,
        Mixing(options.mixup, options.cutmix, options.cutmix_prob, options.num_classes) if mixes else None,
        options.num_classes if options.loss == "BCE" else None,
        options.skip_bad_images,
        workers(options),
    )
    if not len(loader):
        raise InputError(
            f"batch_size is {options.batch_size}, but there are only {len(images)} training images for {ranks} ranks: "
            "use a smaller batch_size, or drop_remainder False."
        )
    return loader

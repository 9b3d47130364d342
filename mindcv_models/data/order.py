"""Which images an epoch shows, in which order, and which of them are this rank's."""

from dataclasses import dataclass
from typing import Optional, Union

import numpy as np

__all__ = ["EpochOrder", "GroupedOrder", "ShareOrder", "StepsOrder", "generator"]

# Purposes of random numbers, so that no two of them share a stream.
ORDER, SAMPLE, BATCH, DROP_PATH = range(4)


def generator(*key: int) -> np.random.Generator:
    """A random generator of its own for every key; making one takes about 10 microseconds."""
    return np.random.Generator(np.random.SFC64(key))


@dataclass(frozen=True)
class EpochOrder:
    """The images of each epoch: a pure function of the seed, the epoch, the rank and the number of ranks.

    Views of one image follow each other, so that they go to different ranks, as in DeiT (arXiv:2012.12877); an epoch
    stays as long as without repeats. Where the ranks do not divide the images, the first images come again.

    Args:
        weights: ``(N,)``, relative chances of the images, drawn with replacement; None shows each once.
        views: repeated augmentation: how often an image is shown, 1 or more.
    """

    size: int
    seed: int
    shuffle: bool = True
    views: int = 1
    weights: Optional[np.ndarray] = None
    rank: int = 0
    ranks: int = 1

    def __len__(self) -> int:
        return -(-self.size // self.ranks)

    def __call__(self, epoch: int) -> np.ndarray:
        """This rank's images of an epoch, ``(len(self),)`` indices."""
        rng = generator(self.seed, ORDER, epoch)
        if self.weights is not None:
            order = rng.choice(self.size, self.size, p=self.weights / self.weights.sum())
        elif self.shuffle:
            order = rng.permutation(self.size)
        else:
            order = np.arange(self.size)
        views = min(self.views, self.size)
        order = np.repeat(order[: -(-self.size // views)], views)[: self.size]
        return np.resize(order, len(self) * self.ranks)[self.rank :: self.ranks]


@dataclass(frozen=True)
class GroupedOrder:
    """Like :class:`EpochOrder`, with batches whose images are all of one group, such as of one aspect ratio.

    Each group is shuffled, and filled up with its first images to whole batches on every rank. The batches come in
    random order; in every step all ranks have the same group, so that none waits for another's larger images.

    Args:
        groups: ``(N,)`` int, the group of each image.
        batch_size: images a batch; the order is cut into batches of this size.
    """

    groups: np.ndarray
    batch_size: int
    seed: int
    shuffle: bool = True
    rank: int = 0
    ranks: int = 1

    def __len__(self) -> int:
        counts = np.unique(self.groups, return_counts=True)[1]
        return int((-(-counts // (self.batch_size * self.ranks))).sum()) * self.batch_size

    def __call__(self, epoch: int) -> np.ndarray:
        """This rank's images of an epoch, ``(len(self),)`` indices."""
        rng = generator(self.seed, ORDER, epoch)
        step = self.batch_size * self.ranks  # images of all ranks
        steps = []
        for group in np.unique(self.groups):
            members = np.flatnonzero(self.groups == group)
            if self.shuffle:
                members = rng.permutation(members)
            steps.append(np.resize(members, (-(-len(members) // step), step)))
        steps = np.concatenate(steps)  # (steps, images of all ranks)
        if self.shuffle:
            steps = steps[rng.permutation(len(steps))]
        return steps[:, self.rank :: self.ranks].reshape(-1)


@dataclass(frozen=True)
class StepsOrder:
    """Epochs of a given number of steps, whatever the size of the data set.

    They walk through the data set pass by pass, each pass in the order that ``passes`` gives for its number: an epoch
    begins where the one before it ended, within a pass or not. Any epoch can be made without those before it.

    Args:
        passes: the order of one pass.
    """

    passes: Union[EpochOrder, GroupedOrder]
    steps: int
    batch_size: int

    @property
    def seed(self) -> int:
        return self.passes.seed

    @property
    def rank(self) -> int:
        return self.passes.rank

    @property
    def ranks(self) -> int:
        return self.passes.ranks

    def __len__(self) -> int:
        return self.steps * self.batch_size

    def __call__(self, epoch: int) -> np.ndarray:
        """This rank's images of an epoch, ``(len(self),)`` indices."""
        begin, size = (epoch - 1) * len(self), len(self.passes)
        first, last = begin // size, (begin + len(self) - 1) // size
        order = np.concatenate([self.passes(number + 1) for number in range(first, last + 1)])
        return order[begin - first * size :][: len(self)]


@dataclass(frozen=True)
class ShareOrder:
    """Every image exactly once over all ranks, in order, for validation; ranks may have one image more than others."""

    size: int
    rank: int = 0
    ranks: int = 1
    seed: int = 0

    def __len__(self) -> int:
        return len(range(self.rank, self.size, self.ranks))

    def __call__(self, epoch: int) -> np.ndarray:
        """This rank's images, ``(len(self),)`` indices, in every epoch."""
        return np.arange(self.rank, self.size, self.ranks)

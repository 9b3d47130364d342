"""Metrics against scikit-learn, for sizes that no batch divides."""

import numpy as np
import pytest
from mindspore import nn
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score

from mindcv_models.classification.validator import Evaluator
from mindcv_models.data.loader import Loader
from mindcv_models.data.order import ShareOrder
from mindcv_models.errors import InputError


class Flat(nn.Cell):
    """An "image" is its own logits."""

    def construct(self, x):
        return x.reshape(x.shape[0], -1)


class Rows:
    """A source of rows of logits, and their labels."""

    def __init__(self, logits, labels):
        self.logits, self.labels = logits, labels

    def __len__(self):
        return len(self.labels)

    def read(self, index):
        return self.logits[index, :, None, None], self.labels[index]


def loader(logits, labels, batch_size, decoded=lambda label: True):
    def sample(raw, _rng):
        return *raw, decoded(raw[1])

    return Loader(Rows(logits, labels), ShareOrder(len(labels)), sample, batch_size, last="pad")


@pytest.mark.parametrize(("images", "classes", "batch_size"), [(13, 10, 4), (1, 7, 8), (8, 3, 8), (29, 6, 1)])
def test_metrics_equal_scikit_learns(images, classes, batch_size):
    rng = np.random.RandomState(images)
    logits = rng.randn(images, classes).astype(np.float32)
    labels = rng.randint(0, classes, images).astype(np.int32)
    metrics = Evaluator(Flat(), classes).run(loader(logits, labels, batch_size))
    probabilities = np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum(1, keepdims=True)
    k = min(5, classes)
    every = np.arange(classes)
    assert (metrics.k, metrics.images) == (k, images)
    assert metrics.top1 == pytest.approx(accuracy_score(labels, logits.argmax(1)))
    expected = 1.0 if k == classes else top_k_accuracy_score(labels, logits, k=k, labels=every)
    assert metrics.topk == pytest.approx(expected)
    assert metrics.loss == pytest.approx(log_loss(labels, probabilities, labels=every), rel=1e-5)


def test_a_missing_image_is_noticed():
    logits, labels = np.eye(4, dtype=np.float32), np.arange(4, dtype=np.int32)
    part = loader(logits, labels, 2)
    part.order = ShareOrder(5, rank=0, ranks=2)  # three of five, and no other rank
    with pytest.raises(RuntimeError, match="validation saw 3 images, but there are 5"):
        Evaluator(Flat(), 4).run(part)


def test_images_that_are_passed_over_count_for_nothing():
    logits, labels = np.eye(4, dtype=np.float32), np.array([0, 1, 2, 0], np.int32)
    metrics = Evaluator(Flat(), 4).run(loader(logits, labels, 3, decoded=lambda label: label != 1))
    assert (metrics.images, metrics.top1) == (3, pytest.approx(2 / 3))
    with pytest.raises(InputError, match="no image of the validation split can be decoded"):
        Evaluator(Flat(), 4).run(loader(logits, labels, 3, decoded=lambda label: False))


def test_the_network_is_left_in_the_mode_it_was_in():
    network = nn.SequentialCell(Flat(), nn.Dropout(p=0.5)).set_train()
    logits, labels = np.eye(4, dtype=np.float32), np.arange(4, dtype=np.int32)
    evaluator = Evaluator(network, 4)
    assert evaluator.run(loader(logits, labels, 4)).top1 == 1.0
    assert network.training

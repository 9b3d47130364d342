"""Resizing with the ratio kept, normalising and padding, against what OpenCV and the original's configuration gave."""

import numpy as np
import pytest

from mindcv_models.data.geometry import fitted_size, normalise, pad_bottom_right, resize_image, resize_labels
from mindcv_models.errors import InputError


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [
        ((512, 683), (2048, 512), (512, 683)),
        ((375, 500), (2048, 512), (512, 683)),
        ((480, 640), (1333, 800), (800, 1067)),
        ((427, 640), (1333, 800), (800, 1199)),
        ((640, 427), (800, 1333), (1199, 800)),  # the order of scale does not matter
        ((100, 1000), (1333, 800), (133, 1333)),
        ((1, 4000), (2048, 512), (1, 2048)),
    ],
)
def test_fitted_size(size, scale, expected):
    assert fitted_size(*size, scale) == expected


def test_images_are_bilinear_between_centres():
    image = np.zeros((2, 2, 3), np.uint8)
    image[:, 1] = 100
    np.testing.assert_array_equal(resize_image(image, 2, 4)[..., 0], [[0, 25, 75, 100]] * 2)
    assert resize_image(image, 2, 2) is image
    with pytest.raises(InputError, match="an image of 2 x 2 would be resized to 20000 x 10000, more than 178,956,970"):
        resize_image(image, 10_000, 20_000)


def test_labels_come_from_the_pixel_at_the_floor():
    labels = np.arange(15).reshape(3, 5)
    np.testing.assert_array_equal(resize_labels(labels, 2, 7), labels[[0, 1]][:, [0, 0, 1, 2, 2, 3, 4]])
    assert resize_labels(labels, 3, 5) is labels


def test_normalising_and_padding():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    out = normalise(image, (1, 2, 3), (2, 4, 8))
    np.testing.assert_allclose(out, (image - np.array([1, 2, 3])).transpose(2, 0, 1) / [[[2]], [[4]], [[8]]])
    assert out.dtype == np.float32
    padded = pad_bottom_right(out, 3, 4, 7)
    np.testing.assert_array_equal(padded[:, :2, :2], out)
    assert (padded[:, 2] == 7).all() and (padded[:, :, 2:] == 7).all() and padded.shape == (3, 3, 4)

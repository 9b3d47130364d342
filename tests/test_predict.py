"""Predictions of single images: decoding, the transforms, views, and what becomes of images that cannot be decoded."""

import numpy as np
import pytest
from mindspore import nn, ops
from mindspore.dataset import vision
from PIL import Image
from scipy.special import softmax

from mindcv_models.classification.images import list_images
from mindcv_models.classification.predict import VIEWS, Predictions, Predictor
from mindcv_models.classification.transforms import EvalTransform
from mindcv_models.classification.validator import ClassificationValidator
from mindcv_models.data.images import UnreadableImageError, decode
from mindcv_models.distributed import ONE_DEVICE
from mindcv_models.errors import NotFiniteError
from tests.helpers.images import PHOTO, options


class Means(nn.Cell):
    """Six "classes": each channel's mean over the left and the right half of the image."""

    def construct(self, x):
        half = x.shape[3] // 2
        return ops.concat((x[:, :, :, :half].mean((2, 3)), x[:, :, :, half:].mean((2, 3))), 1)


class Exp(nn.Cell):
    """Overflows on anything but small numbers."""

    def construct(self, x):
        return ops.exp(x)


@pytest.fixture
def photos(tmp_path):
    """Two class folders with five photographs of different sizes, as JPEG and PNG."""
    for i, name in enumerate(("val/a/0.jpg", "val/a/1.png", "val/b/2.jpg", "val/b/3.png", "val/b/4.JPEG")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PHOTO[: 60 - 3 * i, 5 * i :]).save(tmp_path / name)
    return tmp_path


def files(opts):
    images = list_images(opts, "val")
    return images.items, images.labels


def predictor(opts, **more):
    return Predictor(Means(), 6, EvalTransform.resolve(opts), opts.batch_size, **more)


def saved(path, image, **kwargs):
    image.save(path, **kwargs)
    return str(path)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "LA"])
def test_an_image_of_any_mode_is_decoded_as_mindspore_does(tmp_path, mode):
    image = Image.fromarray(PHOTO)
    image = image.convert("L").convert("LA") if mode == "LA" else image.convert(mode)
    path = saved(tmp_path / ("image.jpg" if mode == "RGB" else "image.png"), image)
    pixels = decode(path)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (60, 100, 3))
    np.testing.assert_array_equal(pixels, vision.Decode()(np.fromfile(path, np.uint8)))


def test_cyan_magenta_yellow_and_black_are_mixed(tmp_path):
    path = saved(tmp_path / "image.jpg", Image.fromarray(PHOTO).convert("CMYK"))
    with Image.open(path) as file:
        *inks, black = np.moveaxis(np.asarray(file).astype(int), -1, 0)
        pillow = np.asarray(file.convert("RGB")).astype(int)
    light = 255 - black
    expected = np.stack([light - (ink * light >> 8) for ink in inks], -1)
    np.testing.assert_array_equal(decode(path), expected)
    assert np.abs(expected - pillow).max() <= 1


def test_sixteen_bits_keep_their_brightness_and_a_transparent_palette_its_colours(tmp_path):
    grey = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    pixels = decode(saved(tmp_path / "deep.png", Image.fromarray(grey)))
    np.testing.assert_array_equal(pixels[:, :, 0], grey // 256)
    palette = Image.fromarray(PHOTO).convert("P")
    path = saved(tmp_path / "palette.png", palette, transparency=bytes(range(256)))
    np.testing.assert_array_equal(decode(path), np.asarray(palette.convert("RGB")))


def test_pixels_that_are_fractions_are_refused(tmp_path):
    path = saved(tmp_path / "float.tif", Image.fromarray(PHOTO[:, :, 0] / np.float32(255)))
    with pytest.raises(UnreadableImageError, match="fractions of no known range"):
        decode(path)


def test_exif_orientation_turns_an_image_only_where_that_is_asked_for(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    path = saved(tmp_path / "turned.png", Image.fromarray(PHOTO), exif=exif)
    np.testing.assert_array_equal(decode(path, upright=False), PHOTO)
    np.testing.assert_array_equal(decode(path), np.rot90(PHOTO, -1))


def test_predictions_repeat_the_validation_of_training(photos):
    opts = options(photos, crop_pct=0.8, interpolation="bicubic", num_classes=6, mean=(120.0,) * 3, std=(60.0,) * 3)
    expected = ClassificationValidator(Means(), opts, ONE_DEVICE).metrics()
    paths, labels = files(opts)
    assert (labels.tolist(), len(paths)) == ([0, 0, 1, 1, 1], 5)
    logits, bad = predictor(opts).run(paths)
    got = Predictions(logits, labels, paths).metrics()
    assert not bad
    assert (got.top1, got.topk, got.k, got.images) == (expected.top1, expected.topk, 5, 5)
    assert got.loss == pytest.approx(expected.loss, abs=1e-6)


def test_views_average_probabilities(photos):
    opts = options(photos, std=(100.0,) * 3)
    paths = [str(photos / "val" / "a" / "1.png")]
    flat = predictor(opts, views=VIEWS["none"]).run(paths)[0]
    flipped = predictor(opts, views=VIEWS["flip"]).run(paths)[0]
    expected = (softmax(flat) + softmax(flat[:, [3, 4, 5, 0, 1, 2]])) / 2
    np.testing.assert_allclose(softmax(flipped), expected, atol=1e-6)
    np.testing.assert_allclose(np.exp(flipped).sum(), 1, atol=1e-6)
    # An image of the network's height: the corner crops are its two ends, and each corner is there twice.
    pixels = PHOTO[:32, :90]
    Image.fromarray(pixels).save(paths[0])
    five = predictor(opts, views=VIEWS["five_crop"]).run(paths)[0]
    starts = (29, 0, 0, 58, 58)
    crops = [pixels[:, start : start + 32] / 100 for start in starts]
    each = [softmax(np.concatenate([c[:, :16].mean((0, 1)), c[:, 16:].mean((0, 1))])) for c in crops]
    np.testing.assert_allclose(softmax(five)[0], np.mean(each, 0), atol=1e-5)
    assert [len(VIEWS[name]) for name in ("flip", "five_crop", "ten_crop")] == [2, 5, 10]


def test_an_image_that_cannot_be_decoded_is_reported_and_the_others_are_not_touched(photos):
    opts = options(photos)
    paths = files(opts)[0]
    whole = predictor(opts).run(paths)[0]
    (photos / "val" / "a" / "1.png").write_bytes(b"not an image")
    logits, bad = predictor(opts).run(paths)
    assert list(bad) == [1]
    assert "no image of a known kind" in bad[1]
    np.testing.assert_array_equal(np.delete(logits, 1, 0), np.delete(whole, 1, 0))


def test_outputs_that_are_not_finite_end_the_run(photos):
    opts = options(photos, std=(0.001,) * 3)
    broken = Predictor(nn.SequentialCell(Means(), nn.ReLU(), Exp()), 6, EvalTransform.resolve(opts), 4)
    with pytest.raises(NotFiniteError, match="not finite"):
        broken.run(files(opts)[0])


def test_a_tie_is_no_hit():
    metrics = Predictions(np.zeros((3, 10), np.float32), np.array([0, 4, 9]), ["", "", ""]).metrics()
    assert (metrics.top1, metrics.topk) == (1 / 3, 2 / 3)

"""Augmentation: each operation against Pillow's, each random choice by its statistics, soft labels by their values."""

import io

import numpy as np
import pytest
from mindspore import Tensor
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from sklearn.datasets import load_sample_image

from mindcv_models.classification import augment
from mindcv_models.classification.augment import FILTERS, ColorJitter, _Surface, create_augment
from mindcv_models.classification.mixing import Mixing
from mindcv_models.classification.options import TrainOptions
from mindcv_models.classification.transforms import RandomErasing, RandomResizedCrop, TrainTransform
from mindcv_models.data.images import Picture, UnreadableImageError, decode
from mindcv_models.data.order import generator
from mindcv_models.errors import InputError

PHOTO = np.ascontiguousarray(load_sample_image("flower.jpg")[100:292, 200:424])
GREY = (128, 128, 128)
NEAREST = _Surface((1, 2, 3), FILTERS["nearest"])


def affine(matrix):
    return lambda image: image.transform(image.size, Image.Transform.AFFINE, matrix, fillcolor=(1, 2, 3))


WIDTH, HEIGHT = PHOTO.shape[1], PHOTO.shape[0]


@pytest.mark.parametrize(
    ("operation", "argument", "pillow", "tolerance"),
    [
        ("AutoContrast", None, ImageOps.autocontrast, 1),
        ("Equalize", None, ImageOps.equalize, 0),
        ("Invert", None, ImageOps.invert, 0),
        ("Posterize", 3, lambda image: ImageOps.posterize(image, 3), 0),
        ("Posterize", 8, lambda image: image, 0),
        ("Solarize", 100, lambda image: ImageOps.solarize(image, 100), 0),
        ("Color", 0.3, lambda image: ImageEnhance.Color(image).enhance(0.3), 2),
        ("Color", 1.8, lambda image: ImageEnhance.Color(image).enhance(1.8), 2),
        ("Desaturate", 0.0, lambda image: image.convert("L").convert("RGB"), 1),
        ("Contrast", 1.7, lambda image: ImageEnhance.Contrast(image).enhance(1.7), 1),
        ("Brightness", 0.4, lambda image: ImageEnhance.Brightness(image).enhance(0.4), 1),
        ("Sharpness", 1.9, lambda image: ImageEnhance.Sharpness(image).enhance(1.9), 2),
        ("Sharpness", 0.1, lambda image: ImageEnhance.Sharpness(image).enhance(0.1), 1),
        ("ShearX", 0.25, affine((1, 0.25, 0, 0, 1, 0)), 0),
        ("ShearY", -0.25, affine((1, 0, 0, -0.25, 1, 0)), 0),
        ("TranslateX", 0.25, affine((1, 0, 0.25 * WIDTH, 0, 1, 0)), 0),
        ("TranslateY", -0.25, affine((1, 0, 0, 0, 1, -0.25 * HEIGHT)), 0),
    ],
)
def test_an_operation_does_what_pillows_does(operation, argument, pillow, tolerance):
    ours = augment._FUNCTIONS[operation](PHOTO, argument, NEAREST).astype(int)
    expected = np.asarray(pillow(Image.fromarray(PHOTO))).astype(int)
    differs = np.abs(ours - expected) > tolerance
    # Sampling at half a pixel goes either way.
    assert differs.mean() < (0.01 if operation.startswith(("Shear", "Translate")) else 1e-9)
    assert operation in ("Posterize",) or (ours != PHOTO).mean() > 0.3


def test_rotation_and_blur_are_close_to_pillows():
    for degrees in (20, -75):
        ours = augment.rotate(PHOTO, degrees, NEAREST)
        expected = np.asarray(Image.fromarray(PHOTO).rotate(degrees, fillcolor=(1, 2, 3)))
        assert (ours != expected).any(-1).mean() < 0.01
        assert ours[0, 0].tolist() == [1, 2, 3]
    blurred = augment.gaussian_blur(PHOTO, 2.0).astype(int)
    expected = np.asarray(Image.fromarray(PHOTO).filter(ImageFilter.GaussianBlur(2.0))).astype(int)
    assert np.abs(blurred - expected).mean() < 1.0


def probes(policy, count):
    """What a policy does to a piece of a photograph, and how often it leaves it as it is."""
    image = PHOTO[64:128, 80:144].copy()
    act = create_augment(policy, GREY, "nearest")
    results = [act(image, generator(1, number)) for number in range(count)]
    assert all(result.shape == image.shape and result.dtype == np.uint8 for result in results)
    return results, np.mean([np.array_equal(result, image) for result in results])


def spy(monkeypatch, policy, count=6000):
    """The operations and arguments that a policy draws for ``count`` images."""
    calls = []

    def record(name):
        return lambda image, argument, surface: calls.append((name, argument)) or image

    for name in augment._FUNCTIONS:
        monkeypatch.setitem(augment._FUNCTIONS, name, record(name))
    act = create_augment(policy, GREY, "bicubic")
    for number in range(count):
        act(PHOTO, generator(1, number))
    return calls


def test_randaugment_draws_two_operations_with_probability_a_half(monkeypatch):
    calls = spy(monkeypatch, "randaug-m9-mstd0.5-inc1")
    assert abs(len(calls) / 6000 - 1) < 0.04
    names = [name for name, _ in calls]
    shares = {name: names.count(name) / len(names) for name in set(names)}
    assert len(shares) == 14
    assert all(abs(share - 1 / 14) < 0.015 for share in shares.values())
    rotations = np.array([value for name, value in calls if name == "Rotate"])
    # 9 of 10 of 30 degrees, deviation 0.5 of 10 and clipped at 10, either way round.
    assert abs(np.abs(rotations).mean() - 27) < 0.3 and np.abs(rotations).max() <= 30
    assert 0.9 < np.abs(rotations).std() < 1.6
    assert abs((rotations > 0).mean() - 0.5) < 0.1
    shears = np.abs([value for name, value in calls if name.startswith("Shear")])
    assert abs(shears.mean() - 0.27) < 0.003
    shifts = np.abs([value for name, value in calls if name.startswith("Translate")])
    assert abs(shifts.mean() - 0.405) < 0.004
    brightness = np.array([value for name, value in calls if name == "Brightness"])
    assert abs(np.abs(brightness - 1).mean() - 0.81) < 0.02 and brightness.min() >= 0.1
    assert {value for name, value in calls if name == "Posterize"} <= {0, 1}
    thresholds = [value for name, value in calls if name == "Solarize"]
    assert abs(np.mean(thresholds) - 26) < 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("randaug-m4-mstd0", {"Rotate": 12.0, "Brightness": 0.82, "Solarize": 102, "Posterize": 1, "ShearX": 0.12}),
        ("randaug-m4-mstd0-inc0", {"Brightness": 0.82, "Solarize": 102, "Posterize": 1}),
        ("randaug-m5-mstd0-inc1", {"Solarize": 128, "Posterize": 2, "TranslateY": 0.225}),
        ("randaug-m15-mmax20-mstd0", {"Rotate": 45.0}),
    ],
)
def test_the_strings_numbers_are_obeyed(monkeypatch, text, expected):
    calls = spy(monkeypatch, text, 600)
    for name, value in expected.items():
        found = {round(abs(argument), 6) for called, argument in calls if called == name}
        assert found == {round(value, 6)}, name


def test_layers_weights_and_uniform_magnitudes(monkeypatch):
    calls = spy(monkeypatch, "randaug-m9-n4-w0-mstd101", 2000)
    assert abs(len(calls) / 2000 - 2) < 0.1
    names = [name for name, _ in calls]
    assert "Invert" not in names and names.count("Rotate") > names.count("Equalize")
    rotations = np.abs([value for name, value in calls if name == "Rotate"])
    assert abs(rotations.mean() - 13.5) < 1 and rotations.min() < 1


def test_three_augment_takes_one_of_three_and_colour_jitter_beside():
    photo = PHOTO.copy()
    act = create_augment("3a", GREY, "bicubic")
    results = [act(photo, generator(7, number)) for number in range(600)]
    grey = [(result.max(-1) == result.min(-1)).all() for result in results]
    solarized = [np.array_equal(result, augment.solarize(photo, 128)) for result in results]
    assert abs(np.mean(grey) - 1 / 3) < 0.06 and abs(np.mean(solarized) - 1 / 3) < 0.06
    blurred = [result for result, g, s in zip(results, grey, solarized) if not g and not s]
    edges = [np.abs(np.diff(result.astype(int), axis=1)).mean() for result in blurred]
    assert max(edges) <= np.abs(np.diff(photo.astype(int), axis=1)).mean() and min(edges) < max(edges) / 1.5
    assert len(TrainTransform(TrainOptions(auto_augment="3a", color_jitter=(0.3,))).augment) == 2
    assert len(TrainTransform(TrainOptions(auto_augment="3a", color_jitter=None)).augment) == 1
    assert len(TrainTransform(TrainOptions(auto_augment="randaug-m9", color_jitter=(0.4,))).augment) == 1


@pytest.mark.parametrize(
    ("policy", "unchanged"), [("autoaug", 0.25), ("autoaugr-mstd0.5", 0.25), ("trivialaugwide", 0.2), ("augmix", 0.4)]
)
def test_other_policies_change_most_images(policy, unchanged):
    results, share = probes(policy, 500)
    assert share < unchanged
    assert len({result.tobytes() for result in results}) > 50


def test_trivial_augment_draws_one_operation_and_a_uniform_wide_magnitude(monkeypatch):
    calls = spy(monkeypatch, "trivialaugwide", 3000)
    assert len(calls) == 3000
    rotations = np.abs([value for name, value in calls if name == "Rotate"])
    assert abs(rotations.mean() - 67.5) < 8 and 120 < rotations.max() <= 135
    assert {value for name, value in calls if name == "Posterize"} <= set(range(2, 9))


@pytest.mark.parametrize("text", ["randaugment", "rand-m9", "randaug-x3", "randaug-m", "3a-m9", "augmix-n2", ""])
def test_an_unknown_policy_is_one_clear_line(text):
    with pytest.raises(InputError, match="but must be one of randaug, autoaug, autoaugr, 3a, trivialaugwide, augmix"):
        create_augment(text, GREY, "bicubic")


def test_colour_jitter_stays_in_its_range():
    flat = np.full((4, 4, 3), 100, np.uint8)
    levels = [ColorJitter((0.4, 0.0, 0.0))(flat, generator(number)).mean() for number in range(2000)]
    assert 60 <= min(levels) < 62 and 138 < max(levels) <= 140
    assert abs(np.mean(levels) - 100) < 2


def test_random_crops_have_the_asked_for_areas_and_ratios():
    crop = RandomResizedCrop((8, 8), (0.08, 1.0), (3 / 4, 4 / 3), "bilinear")
    boxes = [crop.box(375, 500, generator(2, number)) for number in range(4000)]
    tops, lefts, heights, widths = np.array(boxes).T
    assert (tops >= 0).all() and (lefts >= 0).all() and (tops + heights <= 375).all() and (lefts + widths <= 500).all()
    areas, ratios = heights * widths / (375 * 500), widths / heights
    assert 0.075 < areas.min() < 0.09 and areas.max() > 0.95
    small = areas < 0.3  # all ratios fit there, so that they are as drawn
    assert 0.74 < ratios.min() < 0.76 and 1.32 < ratios.max() < 1.35
    assert abs(np.log(ratios[small]).mean()) < 0.02
    assert abs(np.histogram(areas[small], bins=2, range=(0.08, 0.3))[0] / small.sum() - 0.5).max() < 0.06
    assert crop.box(10, 1000, generator(3)) == (0, 493, 10, 13)


def test_a_crop_is_resized_much_as_pillow_does():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    whole = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "interpolation": "bicubic"}
    shrunk = RandomResizedCrop((64, 64), **whole)(stripes, generator(0))
    assert np.abs(shrunk.astype(int) - 128).max() <= 1  # without a filter they would stay black, or white
    photo = np.ascontiguousarray(PHOTO[:, :192])
    for side, limit in ((128, 1.3), (160, 1.4), (180, 1.0), (224, 1.0)):
        ours = RandomResizedCrop((side, side), **whole)(photo, generator(0)).astype(int)
        pillows = np.asarray(Image.fromarray(photo).resize((side, side), Image.Resampling.BICUBIC))
        assert np.abs(ours - pillows).mean() < limit, side


@pytest.mark.parametrize("value", ["random", 0, (1.0, 2.0, 3.0)])
def test_erasing_fills_what_it_says_as_often_as_it_says(value):
    erase = RandomErasing(0.25, (0.02, 0.33), (0.3, 3.3), value, 10)
    image = np.full((3, 40, 40), 9, np.float32)
    results = [erase(image.copy(), generator(4, number)) for number in range(4000)]
    erased = [result for result in results if (result != 9).any()]
    assert abs(len(erased) / 4000 - 0.25) < 0.03
    masks = np.array([(result != 9).any(0) for result in erased])
    shares = masks.mean((1, 2))
    assert 0.01 < shares.min() < 0.04 and 0.3 < shares.max() < 0.36 and abs(shares.mean() - 0.175) < 0.015
    for mask in masks[:50]:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert mask.sum() == len(rows) * len(columns)
    inside = np.concatenate([result[:, mask] for result, mask in zip(erased, masks)], 1)
    if value == "random":
        assert abs(inside.mean()) < 0.01 and abs(inside.std() - 1) < 0.01
    else:
        np.testing.assert_array_equal(inside, np.broadcast_to(np.float32(value).reshape(-1, 1), inside.shape))


def test_the_input_is_normalised_by_mean_and_deviation():
    options = TrainOptions(image_resize=(8,), scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.0, color_jitter=None,
                      mean=(10.0, 20.0, 30.0), std=(2.0, 4.0, 5.0))  # fmt: skip
    flat = np.full((8, 8, 3), 50, np.uint8)
    out = TrainTransform(options)(flat, generator(0))
    assert out.dtype == np.float32 and out.shape == (3, 8, 8)
    np.testing.assert_allclose(out[:, 0, 0], [20.0, 7.5, 4.0], rtol=1e-6)
    flipped = TrainTransform(TrainOptions(**{**vars(options), "hflip": 1.0, "vflip": 1.0}))(PHOTO[:8, :8], generator(0))
    plain = TrainTransform(options)(PHOTO[:8, :8], generator(0))
    np.testing.assert_array_equal(flipped, plain[:, ::-1, ::-1])


def mixed(mixup, cutmix, number, probability=1.0):
    images = np.arange(4, dtype=np.float32)[:, None, None, None] * np.ones((1, 3, 20, 20), np.float32)
    return Mixing(mixup, cutmix, probability, 5)(images, np.array([0, 1, 2, 3], np.int32), generator(number))


def test_mixup_mixes_images_and_labels_by_the_same_share():
    shares = []
    for number in range(300):
        images, labels = mixed(0.2, 0.0, number)
        share = labels[0, 0]
        shares.append(share)
        assert labels.dtype == np.float32 and labels.shape == (4, 5)
        np.testing.assert_allclose(labels[0], [share, 0, 0, 1 - share, 0], atol=1e-6)
        np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
        np.testing.assert_allclose(images[:, 0, 0, 0], [3 * (1 - share), 1 + (1 - share), 2 - (1 - share), 3 * share],
                                   atol=1e-5)  # fmt: skip
    assert abs(np.mean(shares) - 0.5) < 0.08 and np.std(shares) > 0.35  # alpha 0.2: near 0 or near 1


def test_cutmix_puts_in_a_box_and_labels_by_its_area():
    shares = []
    for number in range(300):
        images, labels = mixed(0.0, 1.0, number)
        foreign = images[0] == 3
        assert (foreign | (images[0] == 0)).all() and (foreign[0] == foreign[2]).all()
        np.testing.assert_allclose(labels[0, 3], foreign.mean(), atol=1e-6)
        np.testing.assert_array_equal(images[3] == 0, foreign)
        shares.append(labels[0, 3])
    assert 0.25 < np.mean(shares) < 0.45  # half, less what is clipped at the borders


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.2, 0.0), (0.0, 1.0)])
def test_of_an_odd_batch_the_middle_image_stays(mixup, cutmix):
    images = np.arange(3, dtype=np.float32)[:, None, None, None] * np.ones((1, 3, 20, 20), np.float32)
    images, labels = Mixing(mixup, cutmix, 1.0, 3)(images, np.array([0, 1, 2], np.int32), generator(1))
    np.testing.assert_allclose(images[1], 1, atol=1e-6)
    np.testing.assert_allclose(labels[1], [0, 1, 0], atol=1e-6)
    assert 0 < labels[0, 2] < 1
    np.testing.assert_allclose(labels[0, 2], images[0].mean() / 2, atol=1e-6)


def test_one_of_both_is_drawn_and_some_batches_stay_as_they_are():
    kinds = [mixed(0.2, 1.0, number)[0][1] for number in range(600)]
    boxes = np.mean([len(np.unique(image)) == 2 for image in kinds])
    assert 0.4 < boxes < 0.6
    plain = [mixed(0.2, 1.0, number, 0.5) for number in range(400)]
    kept = [labels for _, labels in plain if np.array_equal(labels, np.eye(5, dtype=np.float32)[:4])]
    assert 0.43 < len(kept) / 400 < 0.57


@pytest.mark.parametrize("name", ["CE", "BCE"])
def test_smoothing_mixed_labels_is_mixing_smoothed_ones(name):
    """The loss smooths what mixing gives: off-value s / K, on-value 1 - s + s / K, then mixed."""
    from mindcv.loss import create_loss

    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, 5)).astype(np.float32)
    _, soft = mixed(0.2, 1.0, 3)
    share = soft[0, 0]
    assert 0.05 < share < 0.95
    smooth = np.eye(5)[:4] * 0.9 + 0.1 / 5
    targets = share * smooth + (1 - share) * smooth[::-1]
    if name == "CE":
        logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        expected = -(targets * logs).sum(1).mean()
    else:
        expected = (np.log1p(np.exp(logits)) - targets * logits).mean()
    loss = create_loss(name, label_smoothing=0.1)(Tensor(logits), Tensor(soft))
    np.testing.assert_allclose(float(loss), expected, rtol=1e-5)


def test_every_image_file_is_read_as_pillow_reads_it(tmp_path):
    small = Image.fromarray(PHOTO[:40, :50])
    for name, image in {
        "plain.jpg": small, "grey.jpg": small.convert("L"), "palette.png": small.convert("P"),
        "alpha.png": small.convert("RGBA"), "plain.bmp": small, "palette.gif": small.convert("P"),
    }.items():  # fmt: skip
        image.save(tmp_path / name)
        with Image.open(tmp_path / name) as file:
            np.testing.assert_array_equal(decode(str(tmp_path / name)), np.asarray(file.convert("RGB")), err_msg=name)
    encoded = io.BytesIO()
    small.save(encoded, "JPEG")
    (tmp_path / "half.jpg").write_bytes(encoded.getvalue()[: len(encoded.getvalue()) // 2])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("half.jpg", "text.jpg", "empty.png"):
        with pytest.raises(UnreadableImageError, match=rf"^cannot decode image .*{name} \(.+\): replace or remove it"):
            decode(str(tmp_path / name))
    with pytest.raises(InputError, match=r"cannot read image .*absent\.jpg \(No such file"):
        decode(str(tmp_path / "absent.jpg"))


JPEGS = {"plain": {}, "progressive": {"progressive": True}, "exif": {"exif": b"Exif\0\0" + bytes(3000)}}


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_is_shrunk_while_it_is_decoded(tmp_path, kind):
    path = tmp_path / "photo.jpg"
    Image.fromarray(PHOTO[:190]).save(path, quality=95, **JPEGS[kind])
    whole = decode(str(path))
    for factor in (1, 2, 4, 8):
        picture = Picture(str(path))
        assert picture.reducible and picture.size == (190, 224)
        small = picture.pixels(factor)
        assert small.shape == (-(-190 // factor), 224 // factor, 3)
        expected = np.asarray(Image.fromarray(whole).reduce(factor)).astype(int)
        assert np.abs(small - expected).mean() < 3


def test_what_is_no_whole_jpeg_is_not_shrunk(tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    assert Picture(str(tmp_path / "photo.png")).pixels(2).shape == PHOTO.shape
    Image.fromarray(PHOTO).save(tmp_path / "photo.jpg")
    content = (tmp_path / "photo.jpg").read_bytes()
    for end in (0, 2, 3, 20, 200, len(content) // 2):
        (tmp_path / "part.jpg").write_bytes(content[:end])
        with pytest.raises(UnreadableImageError):
            Picture(str(tmp_path / "part.jpg")).pixels(2)


class _Shrunk(Picture):
    """A file whose pixels say where they are."""

    def __init__(self, places):
        self.places, self.factor = places, 1

    size = property(lambda self: self.places.shape[:2])

    def pixels(self, factor=1):
        self.factor = factor
        return np.asarray(Image.fromarray(self.places).reduce(factor))


def test_a_crop_of_a_shrunk_image_is_that_of_the_whole_one():
    """Of an image that shows where its pixels are: to within one of the shrunk one's."""
    crop = RandomResizedCrop((32, 24), (0.08, 1.0), (3 / 4, 4 / 3), "bicubic")
    places = np.stack([*np.indices((HEIGHT, WIDTH)), np.zeros((HEIGHT, WIDTH))], -1).astype(np.uint8)
    factors = set()
    for number in range(300):
        *_, height, width = crop.box(HEIGHT, WIDTH, generator(number))
        file = _Shrunk(places)
        own = crop(file, generator(number)).astype(int)
        assert file.factor == max(n for n in (1, 2, 4, 8) if n == 1 or min(height / 32, width / 24) >= n)
        assert np.abs(own - crop(places, generator(number))).max() <= file.factor
        factors.add(file.factor)
    assert factors == {1, 2, 4}
    assert crop.reduction(60, 47) == 1

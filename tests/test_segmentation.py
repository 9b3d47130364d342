"""Semantic segmentation: label maps as files, transforms, whole pictures and windows, scores, pictures of results."""

from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn
from PIL import Image

from mindcv_models import distributed
from mindcv_models.data.class_names import read_class_names
from mindcv_models.data.geometry import resize_labels
from mindcv_models.data.order import generator
from mindcv_models.data.photometric import distort
from mindcv_models.distributed import ONE_DEVICE
from mindcv_models.errors import InputError
from mindcv_models.options import parse
from mindcv_models.segmentation import inference, transforms
from mindcv_models.segmentation.draw import draw_labels, palette, write_png
from mindcv_models.segmentation.folders import LabelMap, list_pictures, prepare
from mindcv_models.segmentation.inference import Inference, InferenceSettings, windows
from mindcv_models.segmentation.metrics import Scores, confusion_matrix
from mindcv_models.segmentation.objective import SegmentationObjective
from mindcv_models.segmentation.options import TrainOptions
from mindcv_models.segmentation.task import TASK
from mindcv_models.segmentation.transforms import IGNORED, TrainTransform
from mindcv_models.segmentation.validator import SegmentationValidator, settings_of
from mindcv_models.training import Schedule, build_network, build_step, learning_rates
from tests.helpers import dense_tiny  # noqa: F401, it registers a backbone
from tests.helpers.label_maps import label_folder, write_pair

CLASSES = 3


@pytest.fixture
def root(tmp_path):
    return label_folder(tmp_path)


def options_of(root, *more):
    words = ["--model", "semantic_fpn", "--data_dir", str(root), "--crop_size", "32", "32", "--batch_size", "2"]
    return parse(TrainOptions, "", [*words, "--num_parallel_workers", "1", *more])


def prepared(root, *more):
    return prepare(options_of(root, *more), ONE_DEVICE, True)


# Label maps as files.


def test_ade20k_labels_shift_by_one(root):
    options = prepared(root)
    assert options.num_classes == 3
    pictures = list_pictures(options, training=True)
    assert [name.rpartition("/")[2] for name in pictures.pictures] == [f"training_{k}.jpg" for k in range(6)]
    picture, labels = pictures.read(2)
    raw = np.asarray(Image.open(root / "annotations/training/training_2.png")).astype(int)
    np.testing.assert_array_equal(labels, np.where(raw == 0, IGNORED, raw - 1))
    assert labels.dtype == np.int16 and picture.shape == (*labels.shape, 3)


@pytest.mark.parametrize(
    ("meaning", "raw", "expected"),
    [
        (LabelMap(3), [0, 1, 2, 255], [0, 1, 2, IGNORED]),
        (LabelMap(3, 1), [0, 1, 3, 255], [IGNORED, 0, 2, IGNORED]),
        (LabelMap(300, 0, 65535), [0, 255, 299, 65535], [0, 255, 299, IGNORED]),
        (LabelMap(2, 1, None), [0, 1, 2, 2], [IGNORED, 0, 1, 1]),
    ],
)
def test_what_numbers_mean(tmp_path, meaning, raw, expected):
    raw = np.array([raw])
    Image.fromarray(raw.astype(np.uint16 if raw.max() > 255 else np.uint8)).save(tmp_path / "map.png")
    np.testing.assert_array_equal(meaning.read(str(tmp_path / "map.png")), [expected])


def test_palettes_and_single_bits_are_numbers(tmp_path):
    numbers = np.array([[0, 1], [2, 0]], np.uint8)
    image = Image.fromarray(numbers, "P")
    image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    image.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(LabelMap(3).read(str(tmp_path / "palette.png")), numbers)
    Image.fromarray(numbers == 1).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(LabelMap(2).read(str(tmp_path / "bits.png")), numbers == 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: (r / "annotations/training/training_1.png").unlink(), "training_1.jpg has no label map of its name"),
        (lambda r: (r / "images/training/training_1.jpg").unlink(), "training_1.png has no picture of its name"),
        (lambda r: write_pair(r, "training", "training_0", np.full((9, 8), 7)), "has the label 7 at 72 pixels, but clas"
         "ses are 1 to 3, and 255 is ignored"),
        (lambda r: write_pair(r, "training", "training_0", np.ones((9, 8), int), (9, 6)), "are 6 x 9 and 8 x 9: they m"
         "ust have one size"),
        (lambda r: (r / "annotations/training/training_0.png").write_bytes(b"no"), "cannot decode label map"),
        (lambda r: Image.new("RGB", (4, 4)).save(r / "annotations/training/training_0.png"), r"colour picture \(RGB\)"),
        (lambda r: (r / "classes.txt").unlink(), "how many classes are there"),
        (lambda r: (r / "classes.txt").write_text("\n"), "has no names"),
        (lambda r: Image.new("L", (3, 3)).save(r / "images/training/training_0.png"), "have one name"),
    ],
)  # fmt: skip
def test_faults_are_named(root, change, message):
    change(root)
    with pytest.raises(InputError, match=message):
        prepared(root)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--train_images", "nowhere"], "no folder .*nowhere: set data_dir and train_images"),
        (["--num_classes", "4"], "num_classes is 4, but the list of classes has 3 names"),
        (["--label_suffix", ".tif"], "has no files that end in .tif"),
        (["--dataset", "ade20"], "did you mean ade20k"),
        (["--crop_size", "32"], "crop_size is .*must be two numbers"),
        (["--stride", "600", "10"], "would leave gaps"),
        (["--copy_paste", "-1"], "copy_paste is -1, but must be from 0 to 16"),
        (["--paste_margin", "65"], "paste_margin is 65, but must be from 0 to 64"),
        (["--paste_epochs", "0"], "paste_epochs is 0, but must be at least 1"),
        (["--ratio_range", "2", "1"], "ratio_range is 2.0 1.0, but must be two numbers, the smaller one first"),
        (["--mean", "0.5", "0.5", "0.5"], "on the scale 0 to 1, but pixels are from 0 to 255"),
        (["--batch_size", "9"], "only 6 training pictures"),
    ],
)
def test_options_that_cannot_work(root, more, message):
    with pytest.raises(InputError, match=message):
        TASK.train_loader(prepared(root, *more), ONE_DEVICE)


def test_names_of_ade20k_and_folders_of_ones_own(tmp_path):
    listing = "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.1\t9\t9\t1\twall\n2\t0.1\t9\t9\t1\tbuilding, edifice\n"
    (tmp_path / "objectInfo150.txt").write_text(listing)
    assert read_class_names(tmp_path / "objectInfo150.txt") == ["wall", "building, edifice"]
    for name in ("a/1_photo.png", "b/1_photo.png"):
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 5)).save(tmp_path / "x" / name)
        target = tmp_path / "y" / name.replace("photo", "ids")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 5), 1).save(target)
    options = prepared(
        tmp_path, "--dataset", "folders", "--train_images", "x", "--train_labels", "y", "--image_suffix", "_photo.png",
        "--label_suffix", "_ids.png",
    )  # fmt: skip
    found = list_pictures(options, training=True)
    assert [name.rpartition("/x/")[2] for name in found.pictures] == ["a/1_photo.png", "b/1_photo.png"]
    assert (found.read(1)[1] == 1).all()  # no shift in folders of one's own


# Transforms.


def transform(**changes):
    settings = {"size": (24, 32), "scale": None, "ratio": (1.0, 1.0), "flip": 0.0, "photometric": False,
                "mean": (0, 0, 0), "std": (1, 1, 1)}  # fmt: skip
    return TrainTransform(**{**settings, **changes})


def pair(height=40, width=50):
    """A picture whose pixels tell where they are, and labels that repeat them."""
    rows, columns = np.mgrid[:height, :width]
    labels = (rows // 5 * 10 + columns // 5).astype(np.int16)
    return np.stack([rows, columns, labels], -1).astype(np.uint8), labels


def test_crops_cut_picture_and_labels_alike():
    picture, labels = pair()
    places = set()
    for seed in range(20):
        out, classes = transform()(picture, labels, generator(seed))
        np.testing.assert_array_equal(out[2], classes)
        places.add((out[0, 0, 0], out[1, 0, 0]))
        np.testing.assert_array_equal(out[0, :, 0] - out[0, 0, 0], np.arange(24))
    assert len(places) > 15
    assert max(top for top, _ in places) <= 16 and max(left for _, left in places) <= 18


def test_flips_mirror_both():
    picture, labels = pair(24, 32)
    out, classes = transform(flip=1.0)(picture, labels, generator(0))
    np.testing.assert_array_equal(out[1, 0], np.arange(32)[::-1])
    np.testing.assert_array_equal(out[2], classes)


def test_small_pictures_are_padded_after_normalising():
    picture, labels = pair(20, 30)
    out, classes = transform(mean=(5, 5, 5))(picture, labels, generator(0))
    assert out.shape == (3, 24, 32) and classes.dtype == np.int32
    assert (out[:, 20:] == 0).all() and (out[:, :, 30:] == 0).all() and out[0, 0, 0] == -5
    assert (classes[20:] == IGNORED).all() and (classes[:20, :30] == labels).all()


def test_resizing_follows_scale_and_ratio():
    picture, labels = pair(40, 50)
    _, classes = transform(size=(100, 100), scale=(100, 40), ratio=(1.5, 1.5))(picture, labels, generator(0))
    np.testing.assert_array_equal(classes[:60, :75], resize_labels(labels, 60, 75))
    assert (classes[60:] == IGNORED).all() and (classes[:, 75:] == IGNORED).all()


def test_picture_and_labels_turn_alike_and_nothing_counts_in_the_corners():
    labels = np.full((60, 60), 2, np.int16)
    labels[10:30, 20:50] = 7
    picture = np.repeat(labels[..., None] * 20, 3, -1).astype(np.uint8)
    angles = set()
    for seed in range(10):
        out, classes = transform(size=(60, 60), rotation=40.0)(picture, labels, generator(seed))
        assert set(np.unique(classes)) == {IGNORED, 2, 7}
        inside = classes != IGNORED
        assert (np.abs(out[0][inside] - 20 * classes[inside]) <= 1).mean() > 0.9  # but for mixtures along the edges
        assert abs((classes == 7).sum() - 600) <= 12  # its area stays
        angles.add(int(inside.sum()))
    assert len(angles) > 5


def test_turned_labels_lie_where_the_resized_picture_shows_them():
    labels = np.zeros((40, 40), np.int16)
    labels[:, 13:27] = 1
    picture = np.repeat(labels[..., None] * 200, 3, -1).astype(np.uint8)
    upright = {"size": (52, 52), "ratio": (1.3, 1.3), "rotation": 1e-9}
    out, classes = transform(**upright)(picture, labels, generator(0))
    np.testing.assert_array_equal(classes, out[0] > 100)
    assert (classes == 1).sum() == 52 * 18  # 14 of 40 columns are 18.2 of 52


def test_objects_of_other_pictures_are_pasted():
    picture, labels = np.full((30, 40, 3), 10, np.uint8), np.zeros((30, 40), np.int16)
    labels[:2] = IGNORED
    other, others_labels = np.full((20, 50, 3), 99, np.uint8), np.full((20, 50), 3, np.int16)
    other[5:9, 12:16], others_labels[5:9, 12:16] = 200, 0  # an object, though its class is the commonest of the picture
    other[:5, 12:16], others_labels[:5, 12:16] = 150, IGNORED
    other[18:, 44:], others_labels[18:, 44:] = 180, 7  # beyond the crop's right border, unless that is drawn far right
    pasting = transform(size=(30, 40), copy_paste=1, draw=lambda rng: (other, others_labels))
    for seed in range(5):
        before = picture.copy(), labels.copy()
        out, classes = pasting(picture, labels, generator(seed))
        left = 12 - np.argwhere(out[0] == 200)[0][1]  # of the other's crop
        expected = np.full((30, 40), 10), labels.copy()
        for rows, columns, value, label in ((slice(5, 9), (12, 16), 200, 0), (slice(18, 20), (44, 50), 180, 7)):
            window = rows, slice(columns[0] - left, columns[1] - left)
            expected[0][window], expected[1][window] = value, label
        np.testing.assert_array_equal(out[0], expected[0])
        np.testing.assert_array_equal(classes, expected[1])
        assert (picture == before[0]).all() and (labels == before[1]).all()


def test_a_margin_comes_with_what_is_pasted():
    picture, labels = np.full((30, 40, 3), 10, np.uint8), np.zeros((30, 40), np.int16)
    other, others_labels = np.full((30, 40, 3), 99, np.uint8), np.full((30, 40), 3, np.int16)
    other[10:14, 20:28], others_labels[10:14, 20:28] = 200, 0
    pasting = transform(size=(30, 40), copy_paste=1, paste_margin=2, draw=lambda rng: (other, others_labels))
    out, classes = pasting(picture, labels, generator(0))
    expected = np.full((30, 40), 10), np.zeros((30, 40), int)
    expected[0][8:16, 18:30], expected[1][8:16, 18:30] = 99, 3
    expected[0][10:14, 20:28], expected[1][10:14, 20:28] = 200, 0
    np.testing.assert_array_equal(out[0], expected[0])
    np.testing.assert_array_equal(classes, expected[1])


def test_pasted_pictures_are_drawn_anew_and_repeatably_up_to_an_epoch(root):
    options = [("--copy_paste", n, "--paste_epochs", "1") for n in ("0", "2", "2")]
    loaders = [TASK.train_loader(prepared(root, *more), ONE_DEVICE) for more in options]
    epochs = {number: [labels_of(loader, number) for loader in loaders] for number in (1, 2)}
    plain, pasted, again = epochs[1]
    np.testing.assert_array_equal(pasted, again)
    changed = (plain != pasted).mean((1, 2, 3))
    assert (changed > 0).all() and (changed < 1).all()
    np.testing.assert_array_equal(epochs[2][1], epochs[2][0])


def labels_of(loader, epoch):
    return np.stack([labels.asnumpy() for _, labels in loader.epoch(epoch)])


def test_uniform_crops_are_drawn_again():
    labels = np.broadcast_to(np.arange(400, dtype=np.int16) // 100 % 2, (40, 400))
    one_try = np.mean([transforms.is_varied(labels[:, left : left + 20]) for left in range(381)])
    lefts = [transforms.choose_crop(labels, (40, 20), generator(seed))[1] for seed in range(400)]
    found = np.mean([transforms.is_varied(labels[:, left : left + 20]) for left in lefts])
    assert one_try == 27 / 381  # 6 to 14 columns of either class, at each of three borders
    assert abs(found - (1 - (1 - one_try) ** 10)) < 0.08


def test_a_crop_is_varied_with_two_classes_neither_of_which_has_three_quarters():
    assert not transforms.is_varied(np.full((4, 4), IGNORED, np.int16))
    assert not transforms.is_varied(np.array([[0, 0, 0, 1]]))
    assert not transforms.is_varied(np.array([[0, 0, 0, 1, IGNORED]]))
    assert transforms.is_varied(np.array([[0, 0, 0, 1, 1]]))


def test_photometric_operations_come_half_of_the_time():
    picture = pair()[0]
    unchanged = np.mean([(distort(picture, generator(k)) == picture).all() for k in range(400)])
    assert abs(unchanged - 1 / 16) < 0.05


def test_batches_depend_on_seed_epoch_and_step_alone(root):
    options = prepared(root, "--steps_per_epoch", "5")
    loader = TASK.train_loader(options, ONE_DEVICE)
    assert len(loader) == 5
    first = [[array.asnumpy() for array in batch] for batch in loader.epoch(2)]
    again = [[array.asnumpy() for array in batch] for batch in TASK.train_loader(options, ONE_DEVICE).epoch(2, 3)]
    assert [array.shape for array in first[0]] == [(2, 3, 32, 32), (2, 32, 32)]
    for one, other in zip(first[3:], again):
        for a, b in zip(one, other):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0][0], first[1][0])


# Whole pictures and windows.


class Means(nn.Cell):
    """Logits at a quarter of the size: the means of red and green over 4 x 4 pixels, and a constant between."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def construct(self, x):
        x = x.asnumpy()
        self.seen.append(x.shape)
        x = np.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % 4), (0, -x.shape[3] % 4)), "edge")
        b, c, h, w = x.shape
        means = x.reshape(b, c, h // 4, 4, w // 4, 4).mean((3, 5))
        return ms.Tensor(np.stack([means[:, 0], means[:, 1], np.full_like(means[:, 0], 100)], 1).astype(np.float32))


class Eager(Means):
    """Called without a graph."""

    def __call__(self, x):
        return self.construct(x)


def halves(height=32, width=48):
    """Red to the left, green to the right, in between neither."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:, : width // 3, 0] = 255
    picture[:, 2 * width // 3 :, 1] = 255
    return picture


def predict(picture, network=None, **changes):
    settings = {"scale": None, "mean": (0, 0, 0), "std": (1, 1, 1)}
    return Inference(network or Eager(), InferenceSettings(**{**settings, **changes}))([picture])[0]


def test_whole_pictures():
    labels = predict(halves())
    assert labels.dtype == np.int16
    np.testing.assert_array_equal(labels[5], np.repeat([0, 2, 1], 16))


@pytest.mark.parametrize(
    "changes",
    [{"divisor": 32}, {"flip": True}, {"ratios": (0.5, 1.0, 2.0), "flip": True}, {"scale": (96, 64)},
     {"window": (32, 32), "stride": (16, 16)}, {"window": (64, 64), "stride": (8, 8)}],
)  # fmt: skip
def test_every_way_gives_about_the_same(changes):
    labels, expected = predict(halves(), **changes), predict(halves())
    assert labels.shape == expected.shape
    assert (labels != expected).mean() <= 4 / 48  # a column or two at each of the two edges


def test_flipping_is_undone():
    picture = halves()
    picture[:, -1:] = 255
    np.testing.assert_array_equal(predict(picture[:, ::-1])[:, ::-1], predict(picture))
    both = predict(np.ascontiguousarray(picture[:, ::-1]), flip=True)
    np.testing.assert_array_equal(both[:, ::-1], predict(picture, flip=True))


def test_windows_cover_everything_and_stay_inside():
    assert windows((10, 25), (10, 10), (5, 10)) == [(0, 0), (0, 10), (0, 15)]
    assert windows((7, 9), (10, 10), (5, 5)) == [(0, 0)]
    assert windows((20, 10), (8, 10), (6, 10)) == [(0, 0), (6, 0), (12, 0)]


def test_windows_are_two_thirds_apart_where_nothing_is_said(root):
    settings = settings_of(prepared(root, "--inference", "slide", "--window", "48", "32"))
    assert (settings.window, settings.stride) == ((48, 32), (32, 21))
    assert settings_of(prepared(root)).window is None


def test_overlapping_windows_are_averaged():
    settings = InferenceSettings(None, (0, 0, 0), (1, 1, 1), (4, 4), (4, 2))
    views = Inference(None, settings).views(np.zeros((4, 8, 3), np.uint8))
    logits = [np.full((1, 1, 1), value, np.float32) for value in (1, 3, 8)]
    (plane,) = inference.enlarged_planes(list(zip(views, logits)), (4, 8))
    np.testing.assert_allclose(plane[0], [1, 1, 2, 2, 5.5, 5.5, 8, 8])


def test_pictures_of_one_size_share_a_batch_and_its_graph():
    network = Eager()
    run = Inference(network, InferenceSettings(None, (0, 0, 0), (1, 1, 1), divisor=32), batch_size=2)
    results = run([halves(30, 40), halves(31, 41), halves(40, 30), halves(32, 48)])
    assert [labels.shape for labels in results] == [(30, 40), (31, 41), (40, 30), (32, 48)]
    assert network.seen == [(2, 3, 32, 64), (2, 3, 32, 64), (1, 3, 64, 32)]


# Scores.


def test_scores_against_a_plain_loop():
    rng = np.random.default_rng(3)
    labels, predicted = rng.integers(-1, 3, (20, 30)), rng.integers(0, 3, (20, 30))
    matrix = confusion_matrix(labels, predicted, 5)  # classes 3 and 4 are nowhere
    expected = np.zeros((5, 5), int)
    for a, b in zip(labels.ravel(), predicted.ravel()):
        if a != IGNORED:
            expected[a, b] += 1
    np.testing.assert_array_equal(matrix, expected)
    scores = Scores(matrix)
    counts = labels != IGNORED
    for k in range(3):
        both, either = ((labels == k) & (predicted == k)).sum(), (counts & ((labels == k) | (predicted == k))).sum()
        np.testing.assert_allclose(scores.iou[k], both / either)
    assert np.isnan(scores.iou[3:]).all()
    np.testing.assert_allclose(scores.values["miou"], scores.iou[:3].mean())
    np.testing.assert_allclose(scores.values["pixel_accuracy"], (labels == predicted).sum() / counts.sum())


def test_a_class_that_is_only_predicted_has_no_accuracy_but_an_iou_of_zero():
    scores = Scores(confusion_matrix(np.zeros((2, 2), int), np.array([[0, 0], [0, 1]]), 2))
    np.testing.assert_array_equal(scores.iou, [0.75, 0])
    np.testing.assert_array_equal(scores.accuracy, [0.75, np.nan])


def test_validation_sees_every_picture_once(root):
    options = prepared(root, "--mean", "0", "0", "2", "--std", "2", "2", "2", "--pad_divisor", "32")
    validator = SegmentationValidator(Eager(), options, ONE_DEVICE)
    result = validator()
    total = np.zeros((3, 3), int)
    for index in range(3):
        picture, labels = validator.pictures.read(index)
        total += confusion_matrix(labels, predict(picture, mean=(0, 0, 2), std=(2, 2, 2), divisor=32), 3)
    assert result.values == Scores(total).values and tuple(result.values) == validator.columns
    assert result.score == result.values["miou"] and result.images == 3
    assert f"mIoU {100 * result.score:.2f} %" in str(result)


def test_pictures_that_cannot_be_decoded_are_left_out_where_told_to(root):
    (root / "images/validation/validation_1.jpg").write_bytes(b"no")
    (root / "images/training/training_0.jpg").write_bytes(b"no")
    more = ["--pad_divisor", "32", "--val_while_train", "True"]
    with pytest.raises(InputError, match=r"cannot decode image .*training_0\.jpg .* --skip_bad_images True"):
        prepared(root, *more)
    options = prepared(root, *more, "--skip_bad_images", "True")
    assert len(list(TASK.train_loader(options, ONE_DEVICE).epoch())) == 3
    assert SegmentationValidator(Eager(), options, ONE_DEVICE)().images == 2
    for path in (root / "images/validation").iterdir():
        path.write_bytes(b"no")
    with pytest.raises(InputError, match="no picture of the validation split"):
        SegmentationValidator(Eager(), options, ONE_DEVICE)()


@pytest.mark.parametrize("count", [3_000_000_019, 2**24 + 1, 0])
def test_counts_of_all_ranks_are_summed_exactly(count, monkeypatch):
    monkeypatch.setattr(distributed.ops, "AllReduce", lambda _: lambda x: ms.Tensor(x.asnumpy() * np.float32(2)))
    counts = np.array([[count, 1], [7, 65535]])
    np.testing.assert_array_equal(distributed.sum_of_counts(counts, distributed.World(0, 2)), 2 * counts)


# The loss.


class Logits(nn.Cell):
    def __init__(self, logits):
        super().__init__()
        self.logits = ms.Parameter(ms.Tensor(logits))

    def construct(self, images):
        return self.logits


def test_loss_counts_ignored_pixels_in_the_mean_only():
    rng = np.random.default_rng(4)
    logits = rng.standard_normal((2, CLASSES, 5, 6)).astype(np.float32)
    labels = rng.integers(-1, CLASSES, (2, 5, 6)).astype(np.int32)
    objective = SegmentationObjective(Logits(logits))
    loss, (accuracy,) = objective(ms.Tensor(np.zeros((2, 3, 5, 6), np.float32)), ms.Tensor(labels))
    wide = logits.astype(np.float64)
    own = np.log(np.exp(wide).sum(1)) - np.take_along_axis(wide, np.maximum(labels, 0)[:, None], 1)[:, 0]
    np.testing.assert_allclose(float(loss), (own * (labels >= 0)).sum() / labels.size, rtol=1e-6)
    np.testing.assert_allclose(float(accuracy), (wide.argmax(1) == labels).mean(), rtol=1e-6)
    weights = np.linspace(0, 2, CLASSES)
    weighted = SegmentationObjective(Logits(logits), weights.tolist())
    loss, _ = weighted(ms.Tensor(np.zeros((2, 3, 5, 6), np.float32)), ms.Tensor(labels))
    own *= weights[np.maximum(labels, 0)] * (labels >= 0)
    np.testing.assert_allclose(float(loss), own.sum() / labels.size, rtol=1e-6)


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.0, 1.0]])
def test_dice_is_over_the_classes_that_are_labelled(eager, weights):
    """Of four classes the second is nowhere; where nothing is labelled the loss is 0."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((2, 4, 5, 6)).astype(np.float32) * 3
    labels = rng.choice([IGNORED, 0, 2, 3], (2, 5, 6)).astype(np.int32)
    e = np.exp(logits.astype(np.float64))
    p = e / e.sum(1, keepdims=True) * (labels >= 0)[:, None]
    t = labels[:, None] == np.arange(4)[:, None, None]
    each = 1 - (2 * (p * t).sum((0, 2, 3)) + 1) / (p.sum((0, 2, 3)) + t.sum((0, 2, 3)) + 1)
    expected = each[[0, 2, 3]].mean()
    images = ms.Tensor(np.zeros((2, 3, 5, 6), np.float32))
    objective = SegmentationObjective(Logits(logits), weights, 0.5)
    assert objective.parts == ("pixel_accuracy", "dice")
    loss, (accuracy, dice) = objective(images, ms.Tensor(labels))
    plain, (same,) = SegmentationObjective(Logits(logits), weights)(images, ms.Tensor(labels))
    np.testing.assert_allclose(float(dice), expected, rtol=1e-6)
    np.testing.assert_allclose(float(loss), float(plain) + 0.5 * expected, rtol=1e-6)
    assert float(accuracy) == float(same)
    _, (_, dice) = objective(images, ms.Tensor(np.full_like(labels, IGNORED)))
    assert float(dice) == 0


def test_class_weights_are_one_for_each_class():
    options = replace(TrainOptions(), class_weights=(1.0, 2.0), num_classes=3)
    with pytest.raises(InputError, match="class_weights has 2 numbers, but there are 3 classes"):
        TASK.objective(options, nn.Identity())


def update_of(options, batches, accumulate):
    """What one update changes in each weight; batch normalisation goes by its stored statistics."""
    ms.set_seed(1)
    options = replace(options, gradient_accumulation_steps=accumulate)
    network = build_network(options, ONE_DEVICE)
    for _, cell in network.cells_and_names():
        if hasattr(cell, "use_batch_statistics"):
            cell.use_batch_statistics = False
    step = build_step(options, TASK.objective(options, network), Schedule(options, 4), ONE_DEVICE)
    before = [weight.asnumpy().copy() for weight in step.weights]
    for batch in batches:
        step(*map(ms.Tensor, batch))
    return {p.name: p.asnumpy() - old for p, old in zip(step.weights, before)}


def test_batches_that_are_accumulated_update_as_one_batch_of_all(root, eager):
    """With layer-wise learning rates and clipping too. Statistics of each batch's own, and AdamW's sign of gradients
    near zero, would make a difference that is no error."""
    options = prepared(
        root, "--backbone", "tiny_maps", "--channels", "8", "--head_channels", "8", "--opt", "sgd", "--momentum", "0",
        "--lr", "1", "--warmup_epochs", "0", "--layer_decay", "0.5", "--clip_grad", "True", "--clip_value", "0.02",
        "--drop_rate", "0",
    )  # fmt: skip
    rng = np.random.default_rng(0)
    shapes = ((2, 3, 32, 32), (2, 32, 32))
    first, second = (
        (rng.standard_normal(shapes[0], np.float32), rng.integers(0, CLASSES, shapes[1]).astype(np.int32))
        for _ in range(2)
    )
    both = tuple(np.concatenate(pair) for pair in zip(first, second))
    whole, parts = update_of(options, [both], 1), update_of(options, [first, second], 2)
    norm = np.sqrt(sum(np.square(value.astype(np.float64)).sum() for value in whole.values()))
    assert 0.005 < norm < 0.02  # clipped, and slower below the last layer
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, rtol=0, atol=2e-7, err_msg=name)


# Pictures of results.


def test_colours_are_told_apart():
    colours = palette(150).astype(int)
    assert len({tuple(colour) for colour in colours.tolist()}) == 150
    assert np.abs(colours[1:] - colours[:-1]).sum(1).min() > 100


def test_drawing(tmp_path):
    labels = np.zeros((400, 300), np.int64)
    labels[:, 200:] = 2
    picture = np.full((400, 300, 3), 100, np.uint8)
    drawn = draw_labels(picture, labels, ["wall", "sky", "tree"], 0.5)
    assert drawn.shape[0] == 400 and drawn.shape[1] > 380
    np.testing.assert_allclose(drawn[50, 50], (100 + palette(3)[0].astype(int)) / 2, atol=1)
    np.testing.assert_allclose(drawn[50, 250], (100 + palette(3)[2].astype(int)) / 2, atol=1)
    assert (drawn[16, 310] == palette(3)[0]).all()  # the largest class first
    for name, numbers in (("small", labels), ("large", labels + 300)):
        write_png(numbers, tmp_path / f"{name}.png")
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"{name}.png")), numbers)


# Recipes.

CONFIGS = Path(__file__).parents[1] / "configs"


def recipe(name):
    return parse(TrainOptions, "", ["--config", str(CONFIGS / name)])


@pytest.mark.parametrize("variant", "smb")
def test_official_recipes(variant):
    """Section 7 of the specification, for 8 devices."""
    options = recipe(f"litv2/semantic_fpn_litv2_{variant}_ade20k.yaml")
    assert (options.model, options.backbone, options.num_classes) == ("semantic_fpn", f"litv2_{variant}", 150)
    assert (options.channels, options.head_channels, options.drop_rate) == (256, 128, 0.1)
    assert options.drop_path_rate == (0.3 if variant == "b" else 0.2)
    assert (options.opt, options.weight_decay, options.weight_decay_filter) == ("adamw", 1e-4, "disable")
    assert (options.clip_grad, options.amp_level, options.batch_size) == (False, "O0", 2)
    assert options.epoch_size * options.steps_per_epoch == 80_000 and options.val_interval * 8000 == 8000
    assert (options.img_scale, options.crop_size, options.ratio_range) == ((2048, 512), (512, 512), (0.5, 2.0))
    assert (options.hflip, options.photometric, options.sync_bn) == (0.5, True, True)
    assert (options.inference, options.pad_divisor, options.tta_flip, options.tta_ratios) == ("whole", 1, False, (1,))
    np.testing.assert_allclose(options.mean_and_std, [[123.675, 116.28, 103.53], [58.395, 57.12, 57.375]], rtol=1e-6)
    rates = np.array(learning_rates(options, 8000))
    expected = (1e-4 - 1e-6) * (1 - np.arange(80_000) / 80_000) ** 0.9 + 1e-6
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/semantic_fpn_*.yaml")), ids=lambda path: path.stem)
def test_recipes_say_what_was_run(path):
    text = path.read_text()
    assert all(f"# {word}" in text for word in ("Papers:", "Devices:", "Run:", "Run here:"))
    assert ("# Published: mIoU" if "ade20k" in path.stem else "# Expected: mIoU 0.80") in text
    assert str(path.relative_to(CONFIGS.parent)) in text
    assert recipe(path).val_while_train

"""COCO's format: what is read, left out and refused; preparation; and the average precision of results."""

import json

import numpy as np
import pytest
from PIL import Image

from mindcv_models.data.loader import Loader
from mindcv_models.data.order import GroupedOrder
from mindcv_models.detection.anchors import RETINANET
from mindcv_models.detection.coco import read_coco
from mindcv_models.detection.data import read_split
from mindcv_models.detection.evaluate import GroundTruth, read_results, to_results
from mindcv_models.detection.options import TrainOptions
from mindcv_models.detection.predict import Detections
from mindcv_models.detection.transforms import Buckets, EvalTransform, Preparation, TrainTransform, padded_size
from mindcv_models.errors import InputError
from tests.helpers import coco

NORMAL = ((0, 0, 0), (1, 1, 1))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("coco")
    return read_coco(coco.write(root), root / "train2017")


def test_objects_are_read_and_those_that_do_not_count_left_out(data):
    assert [(c.id, c.name) for c in data.categories] == [(3, "three"), (7, "seven")]
    assert [image.id for image in data.images] == [10, 20, 30, 40]
    assert data.images[0].boxes.tolist() == [[5, 6, 25, 36], [30, 2, 70, 22]]
    assert data.images[0].classes.tolist() == [1, 0]
    assert data.images[1].boxes.tolist() == [[1.5, 2.25, 11.5, 14.75]]
    assert data.images[2].boxes.shape == (0, 4) and data.images[3].boxes.shape == (0, 4)
    assert data.read(1).pixels.shape == (64, 48, 3)


def test_training_sees_images_with_any_annotation(data):
    """An image with a crowd alone is background; one without annotations is not shown."""
    assert [image.id for image in data.to_train().images] == [10, 20, 40]


def changed(tmp_path, change):
    content = coco.content()
    change(content)
    return coco.write(tmp_path, what=content)


def put(key, place, **values):
    return lambda content: content[key][place].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("images", 1, id=10), "two images have id 10"),
        (put("images", 1, id="20"), "image has id '20', but ids must be whole numbers"),
        (put("images", 1, height=0), "image 20 has height and width"),
        (put("images", 1, file_name=None), "image 20 has file_name None"),
        (put("annotations", 1, id=1), "two annotations have id 1"),
        (put("annotations", 1, image_id="10"), "annotation 2 has image_id '10'"),
        (put("annotations", 1, image_id=99), "annotation 2 is of image 99"),
        (put("annotations", 1, category_id=5), "annotation 2 is of category 5"),
        (put("annotations", 1, bbox=[1, 2, 3]), r"annotation 2 has bbox \[1, 2, 3\]"),
        (put("annotations", 1, bbox=[1, 2, 3, float("nan")]), "annotation 2 has bbox"),
        (put("annotations", 1, area="big"), "annotation 2 has area 'big'"),
        (put("categories", 1, id=7), "two categories have id 7"),
        (lambda content: content.pop("annotations"), "has no list 'annotations'"),
        (lambda content: content.update(categories=[]), "it has no categories"),
    ],
)
def test_what_makes_no_sense_is_refused_with_file_and_id(tmp_path, change, message):
    path = changed(tmp_path, change)
    with pytest.raises(InputError, match=message) as error:
        read_coco(path, tmp_path / "train2017")
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_categories_of_one_name_are_said(tmp_path, caplog):
    path = changed(tmp_path, lambda content: content["categories"][1].update(name=content["categories"][0]["name"]))
    options = TrainOptions(model="retinanet", train_annotations=str(path), image_dir=str(tmp_path / "train2017"))
    for _ in range(2):  # once, however often a run asks
        assert read_split(options, "train").class_names() == ["seven (3)", "seven (7)"]
    assert caplog.messages == [f"{path}: 'seven' is the name of 2 categories, which stay classes of their own"]


def test_files_that_are_no_annotations_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no file of annotations at .*: set data_dir"):
        read_coco(tmp_path / "none.json", tmp_path)
    for text, message in (("{", "is not JSON"), ("[]", "holds a list"), ("{}", "has no list 'images'")):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(InputError, match=message):
            read_coco(tmp_path / "a.json", tmp_path)


def test_missing_and_wrong_image_files(tmp_path):
    path = coco.write(tmp_path)
    folder = tmp_path / "train2017"
    (folder / "1.png").unlink()
    data = read_coco(path, folder)
    with pytest.raises(InputError, match=r"1 of 4 images .* image 20, 1\.png, first"):
        data.present(skip=False)
    assert [image.id for image in data.present(skip=True).images] == [10, 30, 40]
    (folder / "0.png").write_bytes((folder / "2.png").read_bytes())
    with pytest.raises(InputError, match=r"is 50 x 50, but .* says that image 10 is 60 x 40"):
        data.read(0)
    (folder / "2.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"cannot decode image .*2\.png"):
        data.read(2)


@pytest.mark.parametrize(("orientation", "as_stored"), [(6, False), (6, True), (3, False)])
def test_images_are_turned_by_exif_if_the_annotated_size_allows_it(orientation, as_stored, tmp_path):
    """Image 10 is annotated as 60 x 40."""
    turn = orientation == 6 and not as_stored  # so its file is 40 x 60
    stored = np.zeros((60, 40, 3) if turn else (40, 60, 3), np.uint8)
    stored[:10, :10] = 255  # the upper left corner of the file
    path = coco.write(tmp_path)
    tags = Image.Exif()
    tags[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "train2017" / "0.png", exif=tags)
    pixels = read_coco(path, tmp_path / "train2017").read(0).pixels
    expected = stored if as_stored else np.rot90(stored, -1 if turn else 2)
    np.testing.assert_array_equal(pixels, expected)


def test_buckets_hold_every_image():
    buckets = Buckets((1333, 800))
    assert buckets.shapes == ((1344, 800), (800, 1344))
    assert Buckets((160, 160)).shapes == ((160, 160),)
    rng = np.random.default_rng(0)
    prepare = Preparation((1333, 800), *NORMAL)
    for height, width in rng.integers(1, 90, (40, 2)).tolist():
        image = coco_image(height, width)
        size = prepare(np.zeros((height, width, 3), np.uint8), image.boxes).size
        shape = buckets.shapes[buckets.group(image)]
        assert padded_size(*size)[0] <= shape[0] and padded_size(*size)[1] <= shape[1]


def coco_image(height, width):
    from mindcv_models.detection.coco import Annotated

    return Annotated(1, "a.png", height, width)


def test_a_sample_has_its_boxes_at_the_right_anchors(data):
    """Decoding the deltas of the anchors that have an object gives the resized boxes, flipped or not."""
    from mindcv_models.detection.boxes import decode

    raw, buckets = data.read(0), Buckets((96, 64))
    for flip in (0.0, 1.0):
        transform = TrainTransform(Preparation((96, 64), *NORMAL), buckets, 2, flip)
        pixels, labels, deltas = transform(raw, np.random.default_rng(0))
        assert pixels.shape == (3, 64, 96)
        assert set(labels[labels < 2].tolist()) == {-1, 0, 1}
        anchors = RETINANET.all(RETINANET.sizes(64, 96))
        for label, box in ((1, [5, 6, 25, 36]), (0, [30, 2, 60, 22])):
            expected = np.array(box) * 1.6
            if flip:
                expected[[0, 2]] = 96 - expected[[2, 0]]
            chosen = labels == label
            assert chosen.any()
            found = decode(anchors[chosen], deltas[chosen])
            np.testing.assert_allclose(found, np.tile(expected, (chosen.sum(), 1)), rtol=0, atol=1e-3)
    assert (pixels == 0).sum() < 300  # the image fills its shape


def test_batches_are_repeated_exactly_and_of_one_shape(data):
    data, buckets = data.to_train(), Buckets((96, 64))
    groups = np.array([buckets.group(image) for image in data.images])
    assert groups.tolist() == [1, 0, 1]
    transform = TrainTransform(Preparation((96, 64), *NORMAL), buckets, 2)

    def batches(workers):
        order = GroupedOrder(groups, 2, seed=3)
        return list(Loader(data, order, transform, 2, workers=workers).epoch(2))

    first, second = batches(1), batches(3)
    assert sorted(batch[0].shape for batch in first) == [(2, 3, 64, 96), (2, 3, 96, 64)]
    for ours, theirs in zip(first, second, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


def test_evaluation_pads_to_a_bucket_or_to_the_image(data):
    prepare, buckets = Preparation((96, 64), *NORMAL), Buckets((96, 64))
    pixels, number, size, scale = EvalTransform(prepare, buckets)(data.read(2))
    assert (pixels.shape, int(number), size.tolist()) == ((3, 96, 64), 30, [64, 64])
    np.testing.assert_allclose(scale, [1.28, 1.28])
    assert EvalTransform(prepare, buckets, own_shape=True)(data.read(2))[0].shape == (3, 64, 64)


def found(boxes, scores, labels):
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(labels, int))


def test_average_precision_by_hand(data):
    """Of class 3 both objects are found, the first behind a wrong one; of class 7 the box is half right."""
    truth = GroundTruth(data)
    results = to_results(10, found([[30, 2, 70, 22], [5, 6, 25, 21]], [0.7, 0.9], [0, 1]), data.categories)
    results += to_results(20, found([[1.5, 2.25, 11.5, 14.75]], [0.6], [0]), data.categories)
    results += to_results(30, found([[0, 0, 20, 20]], [0.8], [0]), data.categories)
    evaluation = truth.evaluate(results)
    # Precision of class 3: wrong, right, right: 1/2 and 2/3, at most 2/3 from each recall on.
    three = 2 / 3
    # Class 7: an IoU of 1/2 counts at the first of ten thresholds, and its other object, of area 0, does not exist.
    np.testing.assert_allclose(evaluation.per_class[0, 0], three, atol=2e-3)
    assert results[0] == {"image_id": 10, "category_id": 3, "bbox": [30, 2, 40, 20], "score": pytest.approx(0.7)}
    assert evaluation.values["ap"] == pytest.approx(np.nanmean(evaluation.per_class[:, 0]), abs=1e-6)
    assert np.isnan(evaluation.values["ap_large"])
    assert evaluation.curve(0.5).shape == (101,)


def test_no_detection_is_no_precision(data):
    evaluation = GroundTruth(data).evaluate([])
    assert evaluation.values["ap"] == 0 and evaluation.values["ar"] == 0


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"image_id": 11}, "result 0 is of image 11"),
        ({"category_id": 4}, "result 0 is of category 4"),
        ({"bbox": [1, 2, 3]}, "result 0 must have a bbox of four numbers"),
        ({"score": None}, "and a score"),
    ],
)
def test_results_of_another_data_set_are_refused(data, tmp_path, entry, message):
    good = {"image_id": 10, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}
    path = tmp_path / "results.json"
    path.write_text(json.dumps([good]))
    truth = GroundTruth(data)
    assert read_results(path, truth) == [good]
    path.write_text(json.dumps([{**good, **entry}]))
    with pytest.raises(InputError, match=message):
        read_results(path, truth)

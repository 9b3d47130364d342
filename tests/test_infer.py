"""infer.py: what it finds, says and draws, and that it sees images as validate.py does."""

import csv
import io
import json

import numpy as np
import pytest
from mindspore import Tensor, nn
from PIL import Image

from mindcv_models import create_model, reparameterize
from mindcv_models.classification.cam import ClassActivation, draw_activation, draw_activations
from mindcv_models.classification.images import list_images
from mindcv_models.classification.predict import Predictor
from mindcv_models.classification.transforms import EvalTransform
from mindcv_models.errors import InputError
from tests.helpers.images import PHOTO, options
from tests.helpers.networks import make_shallow
from tests.helpers.scripts import call, checkpoint, rows


@pytest.fixture
def photos(tmp_path):
    for i, name in enumerate(("val/a/0.jpg", "val/b/1.png", "val/b/2.PNG")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PHOTO[4 * i :, :, :: (-1) ** i]).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def arguments(tmp_path, *more):
    return ["--model", "tiny", "--ckpt_path", checkpoint(tmp_path / "net.ckpt", 3), "--num_classes", "3",
            "--image_resize", "32", "--num_parallel_workers", "1", *more]  # fmt: skip


def test_it_says_what_validation_says_of_the_same_images(photos, monkeypatch, capsys):
    path = str(photos / "val")
    more = ["--images", path, "--format", "csv", "--topk", "3", "--batch_size", "2", "--interpolation", "bicubic"]
    status, out, error = call("infer", arguments(photos, *more), monkeypatch, capsys)
    assert status == 0, error
    lines = list(csv.DictReader(io.StringIO(out)))
    assert [line["rank"] for line in lines] == ["1", "2", "3"] * 3
    by_class = {(line["image"], line["class"]): float(line["probability"]) for line in lines}
    # validate.py on the same folder, as if "a", "b" and "c" were its classes
    (photos / "val" / "c").mkdir()
    Image.fromarray(PHOTO).save(photos / "val" / "c" / "3.png")
    same = ["--data_dir", str(photos), "--report_dir", str(photos / "report"), "--interpolation", "bicubic"]
    status, _, error = call("validate", arguments(photos, *same), monkeypatch, capsys)
    assert status == 0, error
    for row in rows(photos / "report" / "net" / "predictions.csv")[:3]:
        number = "abc".index(row["predicted"])
        assert by_class[row["image"], f"class {number}"] == pytest.approx(float(row["probability"]), abs=1e-5)


def test_logits_are_those_of_the_network_on_the_models_own_transform(photos):
    opts = options(photos, model="fastvit_t8", mean=None, std=None, crop_pct=None, image_resize=64)
    network = create_model("tiny", num_classes=3).set_train(False)
    paths = list_images(opts, "val").items
    logits, _ = Predictor(network, 3, EvalTransform.resolve(opts), 3, upright=True).run(paths)
    # By hand: shorter side to 64 / 0.9, the middle 64 x 64, ImageNet's mean and deviation.
    width = 71 * 100 // 56
    left = round((width - 64) / 2)
    resized = Image.open(paths[1]).resize((width, 71), Image.Resampling.BICUBIC)
    pixels = np.asarray(resized.crop((left, 4, left + 64, 68)))
    image = (pixels / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    expected = network(Tensor(image.transpose(2, 0, 1)[None].astype(np.float32))).asnumpy()[0]
    np.testing.assert_allclose(logits[1], expected, atol=1e-4)


def test_a_broken_file_is_reported_and_the_rest_goes_on(photos, monkeypatch, capsys):
    (photos / "val" / "b" / "1.png").write_bytes(b"broken")
    more = ["--images", str(photos / "val" / "*" / "*.*"), "--format", "json", "--cam", str(photos / "cam")]
    status, out, error = call("infer", arguments(photos, *more), monkeypatch, capsys)
    assert status == 1
    broken = str(photos / "val" / "b" / "1.png")
    assert f"cannot decode {broken}: no image of a known kind, or a damaged one" in error
    results = json.loads(out)
    assert ["classes" in result for result in results] == [True, False, True]
    assert results[1]["image"] == broken
    assert sum(c["probability"] for c in results[0]["classes"]) == pytest.approx(1, abs=1e-5)
    assert sorted(p.name for p in (photos / "cam").iterdir()) == ["0001_0.png", "0002_2.png"]


def test_the_samples_are_two_photographs_and_a_table_names_their_classes(photos, monkeypatch, capsys):
    (photos / "classes.txt").write_text("temple\ndahlia\nneither\n")
    more = ["--images", "samples", str(photos / "val" / "a" / "0.jpg"), "--topk", "1", "--tta", "flip"]
    status, out, error = call("infer", arguments(photos, *more), monkeypatch, capsys)
    assert status == 0, error
    lines = out.splitlines()
    assert len(lines) == 6
    assert [lines[0].endswith("china.jpg"), lines[2].endswith("flower.jpg")] == [True, True]
    assert all(line.split("%")[1].strip() in ("temple", "dahlia", "neither") for line in lines[1::2])


WRONG = {
    "no checkpoint": (["--ckpt_path", ""], "ckpt_path is missing"),
    "absent checkpoint": (["--ckpt_path", "absent.ckpt"], "no checkpoint at absent.ckpt"),
    "averages": (["--use_ema", "True"], "net.ckpt has no moving averages"),
    "no images": (["--images"], "images is missing"),
    "absent image": (["--images", "absent.jpg"], "no image at absent.jpg"),
    "nothing matches": (["--images", "*.jpg"], "no image at *.jpg"),
    "empty folder": (["--images", "empty"], "no image at empty"),
    "topk": (["--topk", "0"], "topk is 0, but must be at least 1"),
    "format": (["--format", "xml"], "format is 'xml', which is not known"),
    "names": (["--class_names", "absent.txt"], "no class_names at absent.txt: check the path"),
    "too few names": (["--class_names", "two.txt"], "class_names two.txt has 2 names, but num_classes is 3"),
    "grey": (["--in_channels", "1"], "in_channels is 1, but images are read in colour"),
    "cam": (["--cam", "two.txt/cam"], "cannot write to two.txt/cam (Not a directory): choose another cam"),
    "views": (["--tta", "mirror"], "tta is 'mirror', which is not known"),
    "option": (["--image", "x.jpg"], "unknown option --image: did you mean --images?"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line_and_status_2(photos, monkeypatch, capsys, case):
    more, message = WRONG[case]
    monkeypatch.chdir(photos)
    (photos / "empty").mkdir()
    (photos / "two.txt").write_text("a\nb\n")
    status, _, error = call("infer", arguments(photos, "--images", "val", *more), monkeypatch, capsys)
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert (status, len(lines)) == (2, 1), error
    assert message in lines[0]


@pytest.mark.parametrize("model", ["fastvit_t8", "faster_vit_0_any_res", "litv2_s", "resnet18"])
def test_the_mean_of_a_class_activation_map_is_the_logit(model, monkeypatch, request):
    """T8 compiled, as infer.py does, the others eagerly."""
    make_shallow(monkeypatch, (1, 1, 1, 1))
    if model != "fastvit_t8":
        request.getfixturevalue("eager")
    network = create_model(model, num_classes=7).set_train(False)
    if model == "fastvit_t8":
        network = reparameterize(network)
    images = Tensor(np.random.RandomState(0).randn(1, 3, 64, 64).astype(np.float32))
    head, maps = (output.asnumpy() for output in ClassActivation(network).set_train(False)(images))
    assert maps.shape == (1, 7, 2, 2)
    logits = network(images).asnumpy()
    tolerance = 1e-5 * max(1, np.abs(logits).max())
    np.testing.assert_allclose(head, logits, atol=tolerance)
    np.testing.assert_allclose(maps.mean((2, 3)), logits, atol=tolerance)


class Quadrants(nn.Cell):
    """Two classes: how bright and how dark the image is, by 8 x 8 places."""

    def __init__(self, power=1):
        super().__init__()
        self.pool = nn.AvgPool2d(8, 8)
        self.power = power

    def construct(self, x):
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x):
        return self.pool(x)

    def forward_head(self, x):
        return (x.mean((2, 3))[:, :2] * Tensor(np.float32([[1, -1]]))) ** self.power


def test_a_map_is_drawn_where_the_class_is(tmp_path):
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16, 16:] = 255
    Image.fromarray(pixels).save(tmp_path / "corner.png")
    transform = EvalTransform(32, 1.0, "center", "bilinear", (0.0,) * 3, (1.0,) * 3)
    paths = [str(tmp_path / "corner.png")]
    shares = np.array([[0.9, 0.1]])
    drawn = draw_activations(Quadrants(), paths, shares, ["$bright^$", "dark"], transform, 1, tmp_path)
    assert [path.name for path in drawn] == ["0001_corner.png"]
    _, maps = ClassActivation(Quadrants())(Tensor(pixels.transpose(2, 0, 1)[None].astype(np.float32)))
    np.testing.assert_array_equal(maps.asnumpy()[0, 0], np.kron([[0, 255], [0, 0]], np.ones((2, 2))))
    picture = np.asarray(Image.open(drawn[0]).convert("RGB")).astype(int)
    right = picture[:, picture.shape[1] // 2 :]
    red = (right[:, :, 0] > right[:, :, 2] + 60).nonzero()
    assert len(red[0]) > 1000
    assert red[0].mean() < 0.5 * picture.shape[0]
    assert red[1].mean() > 0.5 * right.shape[1]
    draw_activation(pixels, np.float32([[3, 3], [3, 3.1]]), "", tmp_path / "even.png")
    picture = np.asarray(Image.open(tmp_path / "even.png").convert("RGB")).astype(int)[100:-100, 450:700]
    assert (picture[:, :, 0] > picture[:, :, 2] + 60).all()  # colours begin at zero, not at the smallest
    with pytest.raises(InputError, match="logits are not the mean over positions"):
        draw_activations(Quadrants(2), paths, shares, ["bright", "dark"], transform, 1, tmp_path)


def test_a_model_without_the_parts_has_no_maps():
    with pytest.raises(InputError, match="no forward_features and forward_head"):
        ClassActivation(nn.ReLU())

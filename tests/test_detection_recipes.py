"""The recipes of detectors: what the authors' configurations say, and what a recipe has to say of itself."""

from pathlib import Path

import numpy as np
import pytest

from mindcv_models.detection.options import TrainOptions
from mindcv_models.options import parse, read_recipe
from mindcv_models.training import learning_rates

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = [p for p in sorted(CONFIGS.glob("*/*.yaml")) if read_recipe(str(p))["model"] == "retinanet"]
OFFICIAL = [path for path in RECIPES if path.stem.endswith("coco")]


def read(path):
    return parse(TrainOptions, "", ["--config", str(path)])


def test_there_are_the_six_official_ones_and_two_demos():
    assert [path.stem for path in OFFICIAL] == [f"retinanet_litv2_{v}_ws{w}_coco" for v in "bms" for w in (2, 4)]
    assert len(RECIPES) == 8


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_it_claims_and_what_was_run(path):
    read(path)
    text = path.read_text()
    assert all(f"# {word}" in text for word in ("Paper:", "Devices:", "Run:", "Run here:"))
    assert "# Published:" in text or "# Expected:" in text
    assert str(path.relative_to(path.parents[2])) in text


@pytest.mark.parametrize("path", OFFICIAL, ids=lambda path: path.stem)
def test_the_official_ones_follow_the_authors(path):
    """Sections 6 and 8 of the specification; norms and biases decay as well."""
    options, (_, _, variant, window, _) = read(path), path.stem.split("_")
    common = {
        "lr": 1e-4, "opt": "adamw", "weight_decay": 1e-4, "weight_decay_filter": "disable", "epoch_size": 12,
        "batch_size": 2, "img_scale": (1333, 800), "hflip": 0.5, "clip_grad": False, "amp_level": "O1",
    }  # fmt: skip
    assert {name: getattr(options, name) for name in common} == common
    assert (options.backbone, options.window_size) == (f"litv2_{variant}", int(window[2]))
    assert options.drop_path_rate == (0.3 if variant == "b" else 0.2)
    published = {"s2": 44.0, "s4": 43.7, "m2": 46.0, "m4": 45.8, "b2": 46.7, "b4": 46.3}[f"{variant}{window[2]}"]
    assert f"Published: {published} box AP" in path.read_text()


def test_the_learning_rate_is_the_authors():
    updates = 1000
    rates = np.array(learning_rates(read(OFFICIAL[0]), updates))
    epochs = np.arange(12 * updates) // updates
    expected = 1e-4 * np.where(epochs < 8, 1, np.where(epochs < 11, 0.1, 0.01))
    t = np.arange(500)
    expected[:500] *= 1 - (1 - t / 500) * 0.999
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


MASKS = [p for p in sorted(CONFIGS.glob("litv2/*.yaml")) if read_recipe(str(p))["model"] == "mask_rcnn"]


@pytest.mark.parametrize("path", MASKS, ids=lambda path: path.stem)
def test_the_official_ones_of_mask_rcnn_follow_the_authors(path):
    """Sections 6 and 8 of the specification; norms alone do not decay."""
    options, variant, window = read(path), path.stem.split("_")[3], path.stem.split("_")[4]
    common = {
        "lr": 2e-4, "opt": "adamw", "weight_decay": 1e-4, "weight_decay_filter": "auto", "epoch_size": 12,
        "batch_size": 2, "img_scale": (1333, 800), "hflip": 0.5, "clip_grad": False, "amp_level": "O1",
        "regions": 1000, "region_samples": 512, "channels": 256, "convs": 4, "anchor_scale": None,
    }  # fmt: skip
    assert {name: getattr(options, name) for name in common} == common
    assert (options.backbone, options.window_size) == (f"litv2_{variant}", int(window[2]))
    assert options.drop_path_rate == (0.3 if variant == "b" else 0.2)
    box, mask = {"s2": (44.9, 40.8), "s4": (44.7, 40.7), "m2": (46.8, 42.3), "m4": (46.5, 42.0), "b2": (47.3, 42.6),
                 "b4": (46.8, 42.3)}[f"{variant}{window[2]}"]  # fmt: skip
    text = path.read_text()
    assert f"Published: {box} box AP and {mask} mask AP" in text and str(path.relative_to(path.parents[2])) in text


def test_there_are_six_official_ones_of_mask_rcnn():
    assert len(MASKS) == 6

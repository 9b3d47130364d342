"""Every recipe parses, builds and takes a step, follows its specification, and says what it claims and what was run."""

from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import yaml
from mindcv.models.registry import is_model
from mindspore import Tensor, nn
from mindspore.nn.utils import no_init_parameters

from mindcv_models import create_model
from mindcv_models.classification.folders import prepare
from mindcv_models.classification.loader import create_train_loader
from mindcv_models.classification.objective import build_objective
from mindcv_models.classification.options import TrainOptions
from mindcv_models.classification.task import TASK
from mindcv_models.distributed import ONE_DEVICE
from mindcv_models.errors import InputError
from mindcv_models.options import parse, read_recipe
from mindcv_models.tasks import task_of
from mindcv_models.training import Schedule, build_network, build_step, learning_rates
from tests.helpers import tiny  # noqa: F401, it registers the network
from tests.helpers.images import noise_folder
from tests.helpers.networks import make_shallow

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = [path for path in sorted(CONFIGS.glob("*/*.yaml")) if task_of(read_recipe(str(path))["model"]) is TASK]
FASTVIT = ("t8", "t12", "s12", "sa12", "sa24", "sa36", "ma36")
CLASSES = 2


def read(path):
    return parse(TrainOptions, "", ["--config", str(path)])


def reduced(path, folder, depths=(1, 1, 2, 1)):
    """A recipe's options for two small images, two classes and, for FasterViT, few and narrow layers."""
    options = read(path)
    height, width = 64, 64
    changes = {"model_kwargs": dict(options.model_kwargs or {})}
    if options.model.startswith("faster_vit"):
        changes["model_kwargs"].update(dim=32, in_dim=16, depths=list(depths))
        if "any_res" in options.model:  # 3 x 5 windows, as at 576 x 960
            height, width = 96, 160
            changes["model_kwargs"].update(resolution=[height, width], window_size=[7, 7, 2, 2])
    if options.distillation_type != "none":
        teacher = folder / "teacher.ckpt"
        if not teacher.exists():
            ms.save_checkpoint(create_model("tiny", num_classes=CLASSES), str(teacher))
        changes.update(teacher_model="tiny", teacher_path=str(teacher), teacher_kwargs=None)
    return replace(
        options, data_dir=str(noise_folder(folder / "data", images=6)), dataset="", image_resize=(height, width),
        batch_size=2, num_classes=CLASSES, ckpt_path="", val_while_train=False, num_parallel_workers=1,
        ckpt_save_dir=str(folder), val_ratio=None, distribute=False, warmup_epochs=0, loss_scale=1.0, **changes,
    )  # fmt: skip


def graph(options):
    """What decides the compiled graph; recipes that agree in it are stepped once."""
    names = ("model", "model_kwargs", "image_resize", "drop_path_rate", "amp_level", "ema", "ema_ramp", "loss",
             "label_smoothing", "clip_grad", "opt", "weight_decay_filter", "layer_decay", "loss_scale_type",
             "drop_overflow_update", "distillation_type", "distillation_alpha", "distillation_tau", "mesa",
             "gradient_accumulation_steps")  # fmt: skip
    mixes = options.mixup + options.cutmix > 0
    return (mixes, *((name, str(getattr(options, name))) for name in names))


def one_of_each_graph():
    found = {}
    for path in RECIPES:
        found.setdefault(graph(read(path)), path)
    return list(found.values())


# The smallest of each family, and of what a recipe may add to the step: distillation, MESA, images that are not square.
QUICK = ("fastvit_t8_distill_ascend", "faster_vit_0_224_ascend", "faster_vit_0_any_res_ascend", "litv2_s_ascend")
STEPPED = [
    *(pytest.param(path, (1, 1, 1, 1), id=f"{path.stem}, shallow") for path in RECIPES if path.stem in QUICK),
    *(pytest.param(path, None, id=path.stem, marks=pytest.mark.slow) for path in one_of_each_graph()),
]


def test_the_quick_ones_are_among_those_that_are_stepped():
    assert {f"{name}, shallow" for name in QUICK} | set(QUICK) <= {param.id for param in STEPPED}


@pytest.mark.process
@pytest.mark.parametrize(("path", "depths"), STEPPED)
def test_a_recipe_takes_a_step(path, depths, tmp_path, monkeypatch):
    """One compiled step on two images, in the recipe's precision, optimizer, loss and all."""
    if depths:
        make_shallow(monkeypatch, depths)
    options = prepare(reduced(path, tmp_path, depths or (1, 1, 2, 1)), ONE_DEVICE, training=True)
    network = build_network(options, ONE_DEVICE)
    loader = create_train_loader(options)
    step = build_step(options, build_objective(options, network), Schedule(options, len(loader)), ONE_DEVICE)
    step.start_epoch(0.9)  # MESA is on by then
    weight = next(p for p in network.trainable_params() if p.name.endswith("weight"))
    before = weight.asnumpy().copy()
    images, labels = (Tensor(array) for array in next(iter(loader.epoch(1))))
    assert images.shape == (2, 3, *options.image_resize)
    loss = float(step(images, labels))
    assert np.isfinite(loss) and 0 < loss < 100
    assert np.isfinite(weight.asnumpy()).all()
    assert not np.array_equal(weight.asnumpy(), before)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_complete(path):
    options = read(path)
    assert is_model(options.model)
    assert path.stem.startswith(options.model.removesuffix("_224"))
    prefix = options.warmup_epochs if options.warmup_prefix else 0
    assert prefix + options.decay_epochs <= options.epoch_size
    assert options.weight_decay_filter == "norm_and_bias"
    assert options.val_while_train
    text = path.read_text()
    assert all(f"# {word}" in text for word in ("Paper:", "Devices:", "Run:", "Run here:"))
    assert "# Published:" in text or "# Expected:" in text
    assert str(path.relative_to(path.parents[2])) in text


def test_every_recipes_network_is_built_with_its_options(tmp_path, monkeypatch):
    """At reduced size; recipes that build the same network share it."""
    make_shallow(monkeypatch)
    built = {}
    for path in RECIPES:
        options = reduced(path, tmp_path)
        key = str((options.model, options.model_kwargs, options.drop_path_rate))
        if key not in built:
            with no_init_parameters():
                built[key] = build_network(replace(options, amp_level="O0"), ONE_DEVICE)
            assert sum(isinstance(cell, nn.Cell) for cell in built[key].cells()) > 1
    assert len(built) > 20


@pytest.mark.parametrize("variant", FASTVIT)
@pytest.mark.parametrize("device", ["ascend", "gpu"])
def test_fastvit_follows_its_authors(variant, device):
    """Section 12 of the specification: the tables of plain and distilled training."""
    common = {
        "image_resize": (256,), "batch_size": 128, "opt": "adamw", "weight_decay": 0.05, "lr": 1e-3, "min_lr": 1e-5,
        "epoch_size": 310, "warmup_epochs": 5, "lr_epoch_stair": True, "ema_decay": 0.9995, "ema_ramp": False,
        "label_smoothing": 0.1, "cutmix": 1.0, "cutmix_prob": 1.0, "re_prob": 0.25, "re_value": "random",
        "auto_augment": "randaug-m9-mstd0.5-inc1", "aug_repeats": 0, "clip_grad": False, "loss": "CE",
    }  # fmt: skip
    plain = read(CONFIGS / "fastvit" / f"fastvit_{variant}_{device}.yaml")
    taught = read(CONFIGS / "fastvit" / f"fastvit_{variant}_distill_{device}.yaml")
    for options in (plain, taught):
        assert {name: getattr(options, name) for name in common} == common
        assert options.device_target == ("GPU" if device == "gpu" else None)
    index = FASTVIT.index(variant)
    assert plain.mixup == (0.8 if variant == "ma36" else 0.2)
    assert plain.drop_path_rate == (0.0, 0.0, 0.0, 0.1, 0.1, 0.2, 0.35)[index]
    assert taught.mixup == (0.2 if index < 3 else 0.8)
    assert taught.drop_path_rate == (0.0, 0.0, 0.0, 0.0, 0.05, 0.1, 0.2)[index]
    assert plain.distillation_type == "none"
    assert (taught.distillation_type, taught.distillation_alpha, taught.teacher_model) == ("hard", 0.5, "regnet_y_16gf")


def test_fastvits_learning_rates_are_its_authors():
    options = read(CONFIGS / "fastvit" / "fastvit_t8_ascend.yaml")
    rates = np.array(learning_rates(options, 1))
    epochs = np.arange(310)
    expected = 1e-5 + (1e-3 - 1e-5) / 2 * (1 + np.cos(np.pi * np.minimum(epochs, 300) / 300))
    expected[:5] = 1e-6 + epochs[:5] * (1e-3 - 1e-6) / 5
    np.testing.assert_allclose(rates, expected, rtol=1e-4)


@pytest.mark.parametrize("number", range(7))
def test_fastervit_follows_its_authors_command(number):
    """Section 11 of the specification."""
    options = read(CONFIGS / "fastervit" / f"faster_vit_{number}_224_ascend.yaml")
    assert options.mesa == (0.1, 0.2, 0.5, 0.5, 5.0, 5.0, 5.0)[number]
    assert options.mesa_start_ratio == (0.3 if number == 3 else 0.25)
    assert options.weight_decay == (0.005 if number < 4 else 0.12)
    assert options.opt == ("adamw" if number < 4 else "lamb")
    assert options.drop_path_rate == (0.2, 0.2, 0.2, 0.3, 0.3, 0.3, 0.5)[number]
    assert options.warmup_epochs == (35 if number == 3 else 20)
    assert (options.ema, options.ema_decay, options.ema_ramp, options.clip_value) == (True, 0.9998, False, 5.0)
    assert (options.mixup, options.cutmix, options.label_smoothing, options.epoch_size) == (0.8, 1.0, 0.1, 320)


def test_fastervits_learning_rates_are_its_authors():
    options = read(CONFIGS / "fastervit" / "faster_vit_0_224_ascend.yaml")
    rates = learning_rates(options, 312)
    # The authors count updates from 1: their first rate is the second here.
    theirs = [1.8011e-6, 2.5095e-4, 4.9489e-3, 2.5025e-3]
    np.testing.assert_allclose([rates[update] for update in (1, 312, 6240, 48360)], theirs, rtol=1e-4)
    np.testing.assert_allclose(rates[-1], 5e-6, rtol=1e-6)


def test_a_base_gives_what_a_recipe_leaves_out(tmp_path):
    (tmp_path / "base.yaml").write_text("lr: 0.5\nmodel: fastvit_t12\n")
    (tmp_path / "own.yaml").write_text("base: base.yaml\nlr: 0.25\n")
    options = read(tmp_path / "own.yaml")
    assert (options.lr, options.model) == (0.25, "fastvit_t12")
    (tmp_path / "third.yaml").write_text("base: own.yaml\n")
    with pytest.raises(InputError, match=r"own\.yaml is a base, but has a base itself: name base\.yaml"):
        read(tmp_path / "third.yaml")
    (tmp_path / "lost.yaml").write_text("base: nowhere.yaml\n")
    with pytest.raises(InputError, match=r"cannot read the configuration .*nowhere\.yaml"):
        read(tmp_path / "lost.yaml")


def test_a_recipe_with_a_base_repeats_none_of_its_values():
    for path in RECIPES:
        values = yaml.safe_load(path.read_text())
        if "base" in values:
            base = yaml.safe_load((path.parent / values.pop("base")).read_text())
            repeated = [name for name, value in values.items() if name in base and base[name] == value]
            assert not repeated, f"{path.name}: {repeated}"


def test_soft_labels_reach_the_step_as_they_are(tmp_path):
    options = prepare(reduced(CONFIGS / "fastvit" / "fastvit_t8_ascend.yaml", tmp_path), ONE_DEVICE, training=True)
    images, labels = next(iter(create_train_loader(options).epoch(1)))
    assert images.dtype == labels.dtype == np.float32
    np.testing.assert_allclose(labels.sum(1), 1, rtol=1e-6)

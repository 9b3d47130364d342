"""Image folders: the embedded one, what is refused, and which images each rank gets."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mindcv_models.config import Options
from mindcv_models.data import (
    EvalTransform,
    batches,
    create_eval_loader,
    create_train_loader,
    find_bad_images,
    prepare,
    write_digits,
)
from mindcv_models.distributed import ONE_DEVICE
from mindcv_models.errors import InputError


def image_folder(root, train=(("a", 6), ("b", 7)), val=(("a", 3), ("b", 4))):
    """An image folder whose images are flat; their grey level tells them apart."""
    level = 0
    for split, classes in (("train", train), ("val", val)):
        for name, count in classes:
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                level += 7
                Image.fromarray(np.full((40, 40, 3), level, np.uint8)).save(root / split / name / f"{i}.png")
    return root


def noise_folder(root, images=24):
    """An image folder of two classes; no two images, and no two views of one, look the same."""
    rng = np.random.default_rng(0)
    for i in range(images):
        path = root / "train" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(256, size=(48, 56, 3), dtype=np.uint8)).save(path)
    return root


def options(root, **changes):
    given = {"image_resize": 32, "crop_pct": 1.0, "mean": (0.0,) * 3, "std": (1.0,) * 3, "num_parallel_workers": 1}
    return Options(**{"data_dir": str(root), "batch_size": 4, **given, **changes})


def levels(epochs):
    """The grey level and the label of every image that iterators over batches give."""
    return [
        (round(float(image.mean())), int(label))
        for epoch in epochs
        for images, labels in epoch
        for image, label in zip(images.asnumpy(), labels.asnumpy())
    ]


def test_digits_are_written_once_with_a_fixed_split(tmp_path):
    root = write_digits(str(tmp_path / "digits"))
    counts = {split: len(list((root / split).glob("*/*.png"))) for split in ("train", "val")}
    assert counts == {"train": 1400, "val": 397}
    assert sorted(p.name for p in (root / "val").iterdir()) == list("0123456789")
    names = {split: {p.name for p in (root / split).glob("*/*.png")} for split in ("train", "val")}
    assert not names["train"] & names["val"]
    first = sorted((root / "train").glob("*/*.png"))[0]
    written = first.stat().st_mtime_ns
    write_digits(str(root))
    assert first.stat().st_mtime_ns == written


def test_validation_gives_every_image_to_exactly_one_rank(tmp_path):
    opts = options(image_folder(tmp_path))
    loader, total = create_eval_loader(opts)
    everything = levels(batches(loader))
    assert total == len(everything) == 7
    assert [label for _, label in everything] == [0, 0, 0, 1, 1, 1, 1]
    for ranks in (2, 3, 8):
        shares = [create_eval_loader(opts, rank, ranks)[0] for rank in range(ranks)]
        seen = [pair for share in shares if share is not None for pair in levels(batches(share))]
        assert sorted(seen) == sorted(everything)


def test_training_shards_are_disjoint_and_of_one_length(tmp_path):
    opts = options(image_folder(tmp_path, train=(("a", 6), ("b", 6))), batch_size=2, hflip=0.0, color_jitter=None)
    opts = prepare(opts, ONE_DEVICE, training=True)
    loaders = [create_train_loader(opts, rank, 2) for rank in range(2)]
    assert [loader.get_dataset_size() for loader in loaders] == [3, 3]
    seen = [levels([loader.epoch(1)]) for loader in loaders]
    assert len(set(seen[0]) | set(seen[1])) == 12


def test_the_evaluation_transform_is_the_models_own_unless_overridden():
    own = EvalTransform.resolve(Options(model="fastvit_sa36"))
    assert (own.image_resize, own.crop_pct, own.interpolation) == (256, 0.95, "bicubic")
    np.testing.assert_allclose(own.mean, (0.485 * 255, 0.456 * 255, 0.406 * 255))
    changed = EvalTransform.resolve(Options(model="fastvit_sa36", image_resize=64, crop_pct=1.0))
    assert (changed.image_resize, changed.crop_pct, changed.interpolation) == (64, 1.0, "bicubic")
    assert EvalTransform.resolve(Options(model="resnet18")).crop_pct == 0.875


def test_classes_are_counted_and_checked(tmp_path):
    image_folder(tmp_path)
    assert prepare(options(tmp_path), ONE_DEVICE, training=True).num_classes == 2
    with pytest.raises(InputError, match=r"num_classes is 3, but .* has 2 classes: use --num_classes 2"):
        prepare(options(tmp_path, num_classes=3), ONE_DEVICE, training=True)


def test_folders_that_cannot_work_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no folder .*train: set data_dir"):
        prepare(options(tmp_path / "absent"), ONE_DEVICE, training=True)
    (tmp_path / "empty" / "train").mkdir(parents=True)
    with pytest.raises(InputError, match="has no class folders"):
        prepare(options(tmp_path / "empty"), ONE_DEVICE, training=True)
    (tmp_path / "hollow" / "train" / "cats").mkdir(parents=True)
    with pytest.raises(InputError, match=r"class folder .*cats has no images"):
        prepare(options(tmp_path / "hollow"), ONE_DEVICE, training=True)
    image_folder(tmp_path / "odd", val=(("a", 1), ("c", 1)))
    with pytest.raises(InputError, match="'b' is in one of them only"):
        prepare(options(tmp_path / "odd", val_while_train=True), ONE_DEVICE, training=True)


def test_a_corrupt_image_is_named_or_passed_over(tmp_path):
    image_folder(tmp_path)
    bad = tmp_path / "val" / "b" / "2.png"
    bad.write_bytes(bad.read_bytes()[:40])
    opts = options(tmp_path)
    loader, _ = create_eval_loader(opts)
    with pytest.raises(InputError, match=r"cannot decode image .*val/b/2\.png.*skip_bad_images"):
        levels(batches(loader))
    assert find_bad_images(opts, "val") == [str(bad)]
    seen = [pair for epoch in batches(loader, bad_images="skip") for _, y in epoch for pair in y.asnumpy()]
    assert len(seen) == 6
    replaced = [pair for epoch in batches(loader, bad_images="replace") for _, y in epoch for pair in y.asnumpy()]
    assert len(replaced) == 7


EVERYTHING = {
    "auto_augment": "randaug-m9-mstd0.5-inc1", "re_prob": 0.5, "re_value": "random", "mixup": 0.2, "cutmix": 1.0,
}  # fmt: skip


def arrays(loader, epoch, first_step=0):
    return [(images.asnumpy(), labels.asnumpy()) for images, labels in loader.epoch(epoch, first_step)]


def assert_same(one, other):
    assert len(one) == len(other) > 0
    for a, b in zip(one, other):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])


@pytest.mark.parametrize("rank, ranks", [(0, 1), (1, 2)])
def test_an_epoch_is_the_same_whatever_ran_before_and_however_many_threads_made_it(tmp_path, rank, ranks):
    root = noise_folder(tmp_path)
    opts = prepare(options(root, **EVERYTHING), ONE_DEVICE, training=True)
    first = arrays(create_train_loader(opts, rank, ranks), 2)
    np.random.seed(5)
    loader = create_train_loader(replace(opts, num_parallel_workers=3), rank, ranks)
    assert loader.get_dataset_size() == len(loader) == len(first) == 24 // 4 // ranks
    other = arrays(loader, 1)
    left_early = loader.epoch(2)
    next(left_early)
    left_early.close()
    assert_same(first, arrays(loader, 2))
    assert not np.array_equal(first[0][0], other[0][0])
    assert not np.array_equal(first[0][0], arrays(create_train_loader(replace(opts, seed=1), rank, ranks), 2)[0][0])


def test_skipped_steps_are_not_made(tmp_path):
    root = noise_folder(tmp_path)
    opts = prepare(options(root, **EVERYTHING), ONE_DEVICE, training=True)
    loader = create_train_loader(opts)
    everything = arrays(loader, 3)
    decoded = []
    transform = loader.transform
    loader.transform = lambda image, rng: decoded.append(1) or transform(image, rng)
    assert_same(everything[4:], arrays(loader, 3, first_step=4))
    assert len(decoded) == 8
    assert arrays(loader, 3, first_step=6) == []


def test_a_corrupt_training_image_is_named_or_replaced(tmp_path):
    root = noise_folder(tmp_path)
    bad = root / "train" / "b" / "3.png"
    bad.write_bytes(bad.read_bytes()[:40])
    opts = prepare(options(root), ONE_DEVICE, training=True)
    with pytest.raises(InputError, match=r"cannot decode image .*train/b/3\.png.*skip_bad_images"):
        arrays(create_train_loader(opts), 1)
    seen = arrays(create_train_loader(replace(opts, skip_bad_images=True)), 1)
    assert sum(len(labels) for _, labels in seen) == 24
    for path in root.glob("train/*/*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="no training image can be decoded"):
        arrays(create_train_loader(replace(opts, skip_bad_images=True)), 1)

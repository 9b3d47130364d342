"""Image folders: the embedded one, what is refused, and which images each rank gets."""

import hashlib
import json
import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mindcv_models.classification.folders import find_bad_images, prepare, write_digits
from mindcv_models.classification.loader import create_eval_loader, create_train_loader
from mindcv_models.classification.options import TrainOptions
from mindcv_models.classification.transforms import EvalTransform, SmallImageTransform
from mindcv_models.data.order import EpochOrder, generator
from mindcv_models.distributed import ONE_DEVICE
from mindcv_models.errors import InputError, RunError
from mindcv_models.options import parse
from tests.helpers.images import image_folder, noise_folder, options


def levels(loader):
    """The grey level and the label of every image of these batches."""
    return [
        (round(float(image.mean())), int(label))
        for images, labels, *seen in loader
        for image, label, *real in zip(images, labels, *seen)
        if all(real)
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
    everything = levels(create_eval_loader(opts).epoch())
    assert len(everything) == 7
    assert [label for _, label in everything] == [0, 0, 0, 1, 1, 1, 1]
    for ranks in (2, 3, 8):
        shares = [create_eval_loader(opts, rank, ranks) for rank in range(ranks)]
        seen = [pair for share in shares for pair in levels(share.epoch())]
        assert sorted(seen) == sorted(everything)


def test_training_shards_are_disjoint_and_of_one_length(tmp_path):
    opts = options(image_folder(tmp_path, train=(("a", 6), ("b", 6))), batch_size=2, hflip=0.0, color_jitter=None)
    opts = prepare(opts, ONE_DEVICE, training=True)
    loaders = [create_train_loader(opts, rank, 2) for rank in range(2)]
    assert [len(loader) for loader in loaders] == [3, 3]
    seen = [levels(loader.epoch(1)) for loader in loaders]
    assert len(set(seen[0]) | set(seen[1])) == 12


def test_the_evaluation_transform_is_the_models_own_unless_overridden():
    own = EvalTransform.resolve(TrainOptions(model="fastvit_sa36"))
    assert (own.image_resize, own.crop_pct, own.interpolation) == (256, 0.95, "bicubic")
    np.testing.assert_allclose(own.mean, (0.485 * 255, 0.456 * 255, 0.406 * 255))
    changed = EvalTransform.resolve(TrainOptions(model="fastvit_sa36", image_resize=64, crop_pct=1.0))
    assert (changed.image_resize, changed.crop_pct, changed.interpolation) == (64, 1.0, "bicubic")
    assert EvalTransform.resolve(TrainOptions(model="resnet18")).crop_pct == 0.875
    with pytest.raises(
        InputError, match=r"crop_pct is 0\.001, so that images would be resized to 256000 pixels before"
    ):
        EvalTransform.resolve(TrainOptions(model="fastvit_sa36", crop_pct=0.001))
    assert EvalTransform.resolve(TrainOptions(model="faster_vit_4_21k_384")).crop_mode == "squash"
    assert EvalTransform.resolve(TrainOptions(model="faster_vit_0_224")).crop_mode == "center"


@pytest.mark.parametrize(("crop_mode", "frame", "box"), [
    ("center", (35, 52), (10, 2, 42, 34)),  # (52 - 32) / 2 = 10 to the left, round(1.5) = 2 above
    ("squash", (35, 35), (2, 2, 34, 34)),
])  # fmt: skip
def test_validation_images_are_resized_as_by_pillow(tmp_path, crop_mode, frame, box):
    pixels = np.random.default_rng(0).integers(256, size=(80, 120, 3), dtype=np.uint8)
    (tmp_path / "val" / "a").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "val" / "a" / "0.png")
    opts = options(tmp_path, crop_pct=0.9, crop_mode=crop_mode, interpolation="bicubic", std=(2.0,) * 3, num_classes=1)
    loader = create_eval_loader(opts)
    ((image, *_),) = loader.epoch()
    resized = Image.fromarray(pixels).resize(frame[::-1], Image.Resampling.BICUBIC)
    assert len(loader.source) == 1
    np.testing.assert_array_equal(image[0], np.asarray(resized.crop(box)).transpose(2, 0, 1) / np.float32(2))


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
    with pytest.raises(InputError, match=r"'c' in .*val is not among the 2 classes of train \('a', 'b'\)"):
        prepare(options(tmp_path / "odd", val_while_train=True), ONE_DEVICE, training=True)


def test_a_corrupt_image_is_named_or_passed_over(tmp_path):
    image_folder(tmp_path)
    bad = tmp_path / "val" / "b" / "2.png"
    bad.write_bytes(bad.read_bytes()[:40])
    opts = options(tmp_path)
    with pytest.raises(InputError, match=r"cannot decode image .*val/b/2\.png.*skip_bad_images"):
        levels(create_eval_loader(opts).epoch())
    assert find_bad_images(opts, "val") == [str(bad)]
    assert len(levels(create_eval_loader(replace(opts, skip_bad_images=True)).epoch())) == 6


EVERYTHING = {
    "auto_augment": "randaug-m9-mstd0.5-inc1", "re_prob": 0.5, "re_value": "random", "mixup": 0.2, "cutmix": 1.0,
}  # fmt: skip


def arrays(loader, epoch, first_step=0):
    return list(loader.epoch(epoch, first_step))


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
    assert len(loader) == len(first) == 24 // 4 // ranks
    other = arrays(loader, 1)
    left_early = loader.epoch(2)
    next(left_early)
    left_early.close()
    assert_same(first, arrays(loader, 2))
    assert not np.array_equal(first[0][0], other[0][0])
    assert not np.array_equal(first[0][0], arrays(create_train_loader(replace(opts, seed=1), rank, ranks), 2)[0][0])


def test_training_batches_are_those_of_every_version(tmp_path):
    """Recorded before there was one loader; by the nearest pixel, which no version of OpenCV computes otherwise."""
    opts = options(noise_folder(tmp_path), interpolation="nearest", color_jitter=None, re_prob=0.5, re_value="random",
                   mixup=0.2, cutmix=1.0, drop_remainder=False, batch_size=5, aug_repeats=2)  # fmt: skip
    opts = prepare(opts, ONE_DEVICE, training=True)
    digest = hashlib.sha256()
    for rank in range(2):
        for images, labels in create_train_loader(opts, rank, 2).epoch(3, 1):
            digest.update(images.tobytes())
            digest.update(labels.tobytes())
    assert digest.hexdigest()[:16] == "7fe1e54aaf164693"


def test_skipped_steps_are_not_made(tmp_path):
    root = noise_folder(tmp_path)
    opts = prepare(options(root, **EVERYTHING), ONE_DEVICE, training=True)
    loader = create_train_loader(opts)
    everything = arrays(loader, 3)
    decoded = []
    sample = loader.sample
    loader.sample = lambda raw, rng: decoded.append(1) or sample(raw, rng)
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
    with pytest.raises(InputError, match="no image of the data set can be decoded"):
        arrays(create_train_loader(replace(opts, skip_bad_images=True)), 1)


def shown(loader, epoch):
    return loader.order(epoch).tolist()


def order(**changes):
    """The images of epoch 1 on all ranks, interleaved as the ranks take them."""
    ranks = changes.pop("ranks", 1)
    parts = [EpochOrder(**{"size": 10, "seed": 3, **changes}, rank=rank, ranks=ranks)(1) for rank in range(ranks)]
    assert len({len(part) for part in parts}) == 1
    return np.stack(parts, 1).ravel().tolist()


def test_an_epoch_shows_each_image_once_in_a_new_order():
    assert sorted(order()) == list(range(10))
    assert order() != list(range(10))
    assert order() == order(ranks=2) == order(ranks=5)
    assert order(shuffle=False) == list(range(10))
    again = EpochOrder(10, seed=3)
    assert again(1).tolist() != again(2).tolist()
    padded = order(ranks=4)
    assert padded[:10] == order() and padded[10:] == order()[:2]


def test_repeated_views_of_an_image_go_to_different_ranks_and_differ(tmp_path):
    repeated = order(views=3, ranks=2)
    assert repeated == np.repeat(order(), 3)[:10].tolist()
    assert order(views=1_000_000_000) == order()[:1] * 10
    opts = prepare(options(noise_folder(tmp_path), aug_repeats=2, batch_size=1), ONE_DEVICE, training=True)
    loaders = [create_train_loader(opts, rank, 2) for rank in range(2)]
    assert shown(loaders[0], 1) == shown(loaders[1], 1) and len(set(shown(loaders[0], 1))) == 12
    for one, other in zip(*(arrays(loader, 1) for loader in loaders)):
        assert one[1] == other[1]
        assert not np.array_equal(one[0], other[0])


def test_balanced_sampling_shows_each_class_equally_often():
    labels = np.array([0] * 900 + [1] * 90 + [2] * 10)
    weights = 1 / np.bincount(labels)[labels]
    every = EpochOrder(1000, seed=0, weights=weights)
    counts = np.bincount(labels[np.concatenate([every(epoch) for epoch in range(1, 11)])])
    np.testing.assert_allclose(counts / 10000, 1 / 3, atol=0.02)  # four standard deviations
    assert every(1).tolist() == EpochOrder(1000, seed=0, weights=weights)(1).tolist()


def test_the_option_of_balanced_sampling_weighs_by_the_labels(tmp_path):
    image_folder(tmp_path, train=(("a", 30), ("b", 2)))
    opts = prepare(options(tmp_path, class_balanced_sampling=True, batch_size=32), ONE_DEVICE, training=True)
    labels = [arrays(create_train_loader(opts), epoch)[0][1] for epoch in range(1, 11)]
    assert abs(np.mean(labels) - 0.5) < 0.12


def flat_folder(root):
    """Class folders whose names and images sort differently by case, with every suffix; levels tell images apart."""
    level = 0
    for name, count in (("b", 4), ("B", 10), ("a", 2)):
        (root / name).mkdir(parents=True)
        for i, suffix in zip(range(count), (".png", ".PNG", ".bmp", ".gif", ".jpg", ".JPEG") * 2):
            level += 7
            Image.fromarray(np.full((40, 40, 3), level, np.uint8)).save(root / name / f"{'xX'[i % 2]}-{i}{suffix}")
    return root


def test_a_flat_folder_is_split_once_and_validated_on_the_same_images(tmp_path):
    root = flat_folder(tmp_path / "photos")
    given = options(root, val_ratio=0.2, val_while_train=True, ckpt_save_dir=str(tmp_path), batch_size=2, hflip=0.0,
                    color_jitter=None)  # fmt: skip
    opts = prepare(given, ONE_DEVICE, training=True)
    assert opts.num_classes == 3
    split = json.loads((tmp_path / "split.json").read_text())
    assert [len([n for n in split["val"] if n.startswith(c)]) for c in ("B/", "a/", "b/")] == [2, 1, 1]
    assert not set(split["train"]) & set(split["val"]) and len(split["train"]) == 12
    expected = [(round(np.mean(Image.open(root / n).convert("RGB"))), "Bab".index(n[0])) for n in split["val"]]
    assert sorted(levels(create_eval_loader(opts).epoch())) == sorted(expected) and len(expected) == 4
    shares = [pair for rank in range(3) for pair in levels(create_eval_loader(opts, rank, 3).epoch())]
    assert sorted(shares) == sorted(expected)
    trained = levels(create_train_loader(opts).epoch(1))
    assert len(set(trained)) == 12 and not set(trained) & set(expected)

    (root / "a" / "new.png").write_bytes((root / "b" / "x-0.png").read_bytes())
    assert prepare(given, ONE_DEVICE, training=True) == opts
    assert json.loads((tmp_path / "split.json").read_text()) == split
    alone = options(root, split_file=str(tmp_path / "split.json"), batch_size=2)
    loader = create_eval_loader(prepare(alone, ONE_DEVICE, training=False))
    assert sorted(levels(loader.epoch())) == sorted(expected)


def test_splits_that_cannot_work_are_refused(tmp_path):
    flat = flat_folder(tmp_path / "photos")

    def settle(root=flat, training=True, **changes):
        return prepare(options(root, ckpt_save_dir=str(tmp_path), **changes), ONE_DEVICE, training)

    with pytest.raises(InputError, match="has a folder 'train': leave val_ratio out"):
        settle(image_folder(tmp_path / "parted"), val_ratio=0.2)
    with pytest.raises(InputError, match="val_ratio splits for training: give --split_file"):
        settle(training=False, val_ratio=0.2)
    with pytest.raises(InputError, match=r"no split at .*nothing\.json"):
        settle(split_file=str(tmp_path / "nothing.json"))
    settle(val_ratio=0.2)
    with pytest.raises(InputError, match=r"is a split with val_ratio 0\.2 and seed 42, but this run has 0\.5 and 42"):
        settle(val_ratio=0.5)
    (flat / "a" / "x-0.png").unlink()
    with pytest.raises(InputError, match=r"has a/x-0\.png, which is not in"):
        settle(val_ratio=0.2)
    (tmp_path / "split.json").unlink()
    with pytest.raises(InputError, match=r"photos/a has one image, which cannot be split"):
        settle(val_ratio=0.2)


def test_a_subset_is_the_same_in_every_epoch(tmp_path):
    opts = prepare(options(noise_folder(tmp_path), num_samples=8), ONE_DEVICE, training=True)
    loader = create_train_loader(opts)
    assert len(loader) == 2 and len(loader.source) == 8
    assert create_train_loader(opts).source.items == loader.source.items
    with pytest.raises(InputError, match="batch_size is 4, but there are only 2 training images for 1 ranks"):
        create_train_loader(replace(opts, num_samples=2))


def test_images_need_not_be_square(tmp_path):
    image_folder(tmp_path)
    opts = prepare(options(tmp_path, image_resize=(24, 40)), ONE_DEVICE, training=True)
    assert arrays(create_train_loader(opts), 1)[0][0].shape == (4, 3, 24, 40)
    images, *_ = next(create_eval_loader(opts).epoch())
    assert images.shape == (4, 3, 24, 40)
    assert EvalTransform.resolve(replace(opts, image_resize=(48, 48))).image_resize == 48
    assert EvalTransform.resolve(TrainOptions(model="faster_vit_0_any_res")).image_resize == (576, 960)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--image_resize 224 224 3", "image_resize is 224 224 3, but must be one size, or height and width"),
        ("--image_resize 0", "image_resize is 0, but must be from 1 to 8192."),
        ("--image_resize 100000", "image_resize is 100000, but must be from 1 to 8192."),
        ("--hflip 1.5", "hflip is 1.5, but must be from 0 to 1"),
        ("--re_prob -0.1", "re_prob is -0.1, but must be from 0 to 1"),
        ("--mixup -1", "mixup is -1.0, but must be at least 0"),
        ("--aug_repeats -3", "aug_repeats is -3, but must be at least 0"),
        ("--scale 1.0 0.08", "scale is 1.0 0.08, but must be two numbers, the smaller one first"),
        ("--color_jitter 0.4 0.4", "color_jitter is 0.4 0.4, but must be one strength, or three"),
        ("--re_value noise", "re_value is 'noise', but must be a number, one for each channel, or random"),
        ("--re_value [0,1]", "re_value is 0 1, but must be a number, one for each channel"),
        ("--crop_pct 90", "crop_pct is 90.0, but must be above 0 and at most 1; for 90 % write 0.9"),
        ("--val_ratio 20", "val_ratio is 20.0, but must be between 0 and 1; for 20 % write 0.2"),
        ("--num_samples 0", "num_samples is 0, but must be at least 1"),
        ("--class_balanced_sampling often", "class_balanced_sampling is 'often', but must be True or False"),
    ],
)
def test_wrong_options_are_one_clear_line(arguments, message):
    with pytest.raises(InputError) as refused:
        parse(TrainOptions, "", arguments.split())
    assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("failure", [MemoryError(), SystemExit(3), RuntimeError("out of luck")])
def test_a_worker_that_dies_ends_the_epoch_with_one_line(tmp_path, failure):
    opts = prepare(options(noise_folder(tmp_path), num_parallel_workers=2), ONE_DEVICE, training=True)
    loader = create_train_loader(opts)
    sample, calls = loader.sample, []

    def dying(raw, rng):
        calls.append(1)
        if len(calls) > 12:
            raise failure
        return sample(raw, rng)

    loader.sample = dying
    message = rf"^a data worker died \({type(failure).__name__}.* at .*\.png\); checkpoints stay"
    with pytest.raises(RunError, match=message):
        list(loader.epoch(1))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("data")]


def test_a_standard_data_set_of_mindcvs_is_trained_and_validated_on(tmp_path):
    rng = np.random.default_rng(0)
    labels = {}
    for prefix, count in (("train", 12), ("t10k", 5)):
        labels[prefix] = rng.integers(10, size=count).astype(np.uint8)
        pixels = rng.integers(256, size=(count, 28, 28), dtype=np.uint8)
        header = np.array([2051, count, 28, 28], ">u4").tobytes()
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        header = np.array([2049, count], ">u4").tobytes()
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(header + labels[prefix].tobytes())
    opts = prepare(options(tmp_path, dataset="mnist", val_while_train=True), ONE_DEVICE, training=True)
    assert opts.num_classes == 10
    first = arrays(create_train_loader(opts), 1)
    assert len(first) == 3 and first[0][0].shape == (4, 1, 32, 32) and first[0][0].dtype == np.float32
    assert_same(first, arrays(create_train_loader(replace(opts, num_parallel_workers=2)), 1))
    assert sorted(np.concatenate([each for _, each in first])) == sorted(labels["train"])
    seen = [label for _, each, *_, valid in create_eval_loader(opts).epoch() for label in each[valid]]
    assert seen == labels["t10k"].tolist() and len(seen) == 5


def test_cifars_images_are_moved_and_flipped():
    image = np.arange(32 * 32 * 3, dtype=np.int64).reshape(32, 32, 3).astype(np.uint8)
    transform = SmallImageTransform(TrainOptions(dataset="cifar10", image_resize=(32,)))
    views = [transform(image, generator(number)) for number in range(60)]
    assert all(view.shape == (3, 32, 32) and view.dtype == np.float32 for view in views)
    assert len({view.tobytes() for view in views}) > 30
    np.testing.assert_array_equal(transform(image, generator(7)), views[7])

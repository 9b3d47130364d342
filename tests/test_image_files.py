"""Whatever lies in an image folder: training, validation, reports and prediction find, label and decode the same."""

import json
import logging
import os
import struct
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from mindcv_models.classification.folders import find_bad_images, prepare
from mindcv_models.classification.images import list_images
from mindcv_models.classification.labels import natural_order
from mindcv_models.classification.loader import create_eval_loader, create_train_loader
from mindcv_models.classification.options import TrainOptions
from mindcv_models.classification.predict import image_loader
from mindcv_models.classification.transforms import EvalTransform
from mindcv_models.data import images as decoder
from mindcv_models.data.files import find_images
from mindcv_models.data.headers import read_header
from mindcv_models.data.images import Picture, UnreadableImageError, decode
from mindcv_models.distributed import ONE_DEVICE
from mindcv_models.errors import InputError
from tests.helpers.images import PHOTO, image_folder, options

APPLE = b"\0\5\x16\7\0\2\0\0Mac OS X        "
PLAIN = {"hflip": 0.0, "color_jitter": None, "scale": (1.0, 1.0), "ratio": (1.0, 1.0), "interpolation": "nearest"}


def flat(path, level, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 40), (level,) * 3).save(path, **kwargs)


def litter(folder):
    """What systems and people leave in a class folder; none of it is an image."""
    (folder / ".ipynb_checkpoints").mkdir()
    flat(folder / ".ipynb_checkpoints" / "0-checkpoint.png", 250)
    for name in ("._0.png", ".DS_Store", "Thumbs.db", "0.xml", "notes.txt", ".hidden.jpg"):
        (folder / name).write_bytes(APPLE)
    (folder / "5b.png").mkdir()  # a folder that is called like an image
    os.symlink(folder, folder / "round")
    os.symlink(folder / "gone.png", folder / "broken.png")
    os.mkfifo(folder / "pipe.png")


def levels(loader, epoch=1):
    """(grey level, label) of each image that a loader gives, sorted."""
    seen = []
    for images, labels, *valid in loader.epoch(epoch):
        for image, label, *real in zip(images, labels, *valid):
            if all(real):
                seen.append((round(float(image.mean())), int(label)))
    return sorted(seen)


def in_every_way(opts):
    """What training, validation and the loader of reports and prediction each make of one split."""
    train = levels(create_train_loader(replace(opts, train_split=opts.val_split, drop_remainder=False, **PLAIN)))
    images = list_images(opts, opts.val_split)
    numbers = image_loader(images.items, EvalTransform.resolve(opts), 3)
    report = sorted((level, int(images.labels[number])) for level, number in levels(numbers))
    return train, levels(create_eval_loader(opts)), report


@pytest.mark.parametrize("nested", [False, True])
def test_litter_shifts_nothing_of_a_split(tmp_path, nested):
    root, level = tmp_path / "photos", 0
    for name in "ab":
        for i in range(8):
            level += 7
            flat(
                root
                / name
                / ("cam1" if nested and i % 2 else "")
                / ("day" if nested and i % 4 == 3 else "")
                / f"{i}.png",
                level,
            )
        litter(root / name)
    given = options(root, val_ratio=0.3, val_while_train=True, ckpt_save_dir=str(tmp_path), batch_size=2, **PLAIN)
    opts = prepare(given, ONE_DEVICE, training=True)
    split = json.loads((tmp_path / "split.json").read_text())
    assert len(split["train"]) + len(split["val"]) == 16 and len(split["val"]) == 4

    def listed(names):
        return sorted((Image.open(root / name).getpixel((0, 0))[0], "ab".index(name[0])) for name in names)

    assert levels(create_train_loader(opts)) == listed(split["train"])
    assert levels(create_eval_loader(opts)) == listed(split["val"])
    assert not set(listed(split["train"])) & set(listed(split["val"]))
    assert list_images(opts, "val").items == [f"{root}/{name}" for name in split["val"]]


def test_litter_is_passed_over_and_counted_and_folders_are_searched_to_the_end(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for split in ("train", "val"):
        for label, name in enumerate("ab"):
            for i, place in enumerate(("", "cam1/", "cam2/deep/")):
                flat(tmp_path / split / name / f"{place}{i}.png", 20 + 100 * label + 7 * i)
            litter(tmp_path / split / name)
        (tmp_path / split / ".ipynb_checkpoints").mkdir()
        (tmp_path / split / "readme.txt").write_text("of no class")
    opts = prepare(options(tmp_path, val_while_train=True), ONE_DEVICE, training=True)
    assert opts.num_classes == 2
    expected = [(20 + 100 * label + 7 * i, label) for label in range(2) for i in range(3)]
    assert in_every_way(opts) == (expected, expected, expected)
    found = find_images(tmp_path / "val")
    assert sorted(found) == sorted(list_images(opts, "val").items)
    others = "2 .db, 2 .txt, 2 .xml, 2 broken links, 8 hidden, 2 pipes or devices"
    assert f"val: 6 images; left out of its class folders: {others}" in caplog.text


FORMATS = {
    "0.gif": {"format": "GIF", "save_all": True, "append_images": [Image.new("RGB", (40, 40), (250,) * 3)]},
    "1.webp": {"format": "WEBP", "lossless": True},
    "2.tif": {"format": "TIFF"},
    "3.TIFF": {"format": "TIFF", "compression": "tiff_lzw"},
    "4.jpg": {"format": "WEBP", "lossless": True},
    "5.jpeg": {"format": "PNG"},
    "6.bmp": {"format": "BMP"},
    "7.PNG": {"format": "PNG"},
    "8.JPG": {"format": "JPEG", "quality": 95},
}


def test_every_format_is_the_same_in_every_way(tmp_path):
    for label, name in enumerate("ab"):
        for i, (file, kwargs) in enumerate(FORMATS.items()):
            flat(tmp_path / "val" / name / file, 10 + 100 * label + 10 * i, **kwargs)
    opts = replace(options(tmp_path, train_split="val"), num_classes=2)
    expected = [(10 + 100 * label + 10 * i, label) for label in range(2) for i in range(len(FORMATS))]
    assert in_every_way(opts) == (expected, expected, expected)
    assert find_bad_images(opts, "val") == []


MODES = {
    "grey.png": lambda image: image.convert("L"),
    "grey_alpha.png": lambda image: image.convert("LA"),
    "palette.png": lambda image: image.convert("P"),
    "palette.gif": lambda image: image.convert("P"),
    "alpha.webp": lambda image: image.convert("RGBA"),
    "alpha.tif": lambda image: image.convert("RGBA"),
    "bilevel.png": lambda image: image.convert("1"),
    "grey16.png": lambda image: Image.fromarray((np.asarray(image.convert("L")).astype(np.uint16) << 8) + 200),
    "grey16.tif": lambda image: Image.fromarray((np.asarray(image.convert("L")).astype(np.uint16) << 8) + 200),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_colours_of_eight_bits(tmp_path, name):
    image = Image.fromarray(PHOTO)
    MODES[name](image).save(tmp_path / name, **({"lossless": True, "exact": True} if name.endswith("webp") else {}))
    expected = image.convert("L") if name.startswith("grey") else MODES[name](image)
    expected = expected.convert("RGB")
    np.testing.assert_array_equal(decode(str(tmp_path / name)), np.asarray(expected))


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_images_are_turned_upright_whatever_reads_them(tmp_path, suffix, orientation):
    turns = {1: None, 2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270",
             7: "TRANSVERSE", 8: "ROTATE_90"}  # fmt: skip
    path = str(tmp_path / f"photo.{suffix}")
    kwargs = {"lossless": True} if suffix == "webp" else {"quality": 95} if suffix == "jpg" else {}
    Image.fromarray(PHOTO).save(path, exif=exif(orientation), **kwargs)
    stored = cv2.imread(path, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION) if suffix == "jpg" else PHOTO
    turn = turns[orientation]
    seen = Image.fromarray(stored).transpose(Image.Transpose[turn]) if turn else Image.fromarray(stored)
    np.testing.assert_array_equal(decode(path), np.asarray(seen))
    assert Picture(path).size == (seen.height, seen.width)
    if suffix != "tif":  # which Pillow turns itself
        np.testing.assert_array_equal(decode(path, upright=False), stored)
        assert Picture(path, upright=False).size == PHOTO.shape[:2]


def test_a_shrunk_image_is_turned_too(tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "photo.jpg", quality=95, exif=exif(6))
    small = Picture(str(tmp_path / "photo.jpg")).pixels(2)
    assert small.shape == (50, 30, 3)
    expected = np.asarray(Image.fromarray(PHOTO).transpose(Image.Transpose.ROTATE_270).reduce(2)).astype(int)
    assert np.abs(small - expected).mean() < 4


def test_training_validation_and_prediction_turn_alike(tmp_path):
    """Two halves: which of them is bright tells a turned image from one that is not."""
    stored = np.zeros((32, 32, 3), np.uint8)
    stored[:16] = 200
    for name in "ab":
        for i in range(2):
            path = tmp_path / "val" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(stored).save(path, exif=exif(6))  # the right half is bright when it is upright
    opts = replace(options(tmp_path, train_split="val"), num_classes=2)
    for upright in (True, False):
        own = replace(opts, upright=upright)
        images = list_images(own, "val")
        for loader in (
            create_train_loader(replace(own, **PLAIN)),
            create_eval_loader(own),
            image_loader(images.items, EvalTransform.resolve(own), 4, upright=upright),
        ):
            batch, *_ = next(loader.epoch())
            bright = batch[:, :, :, 16:] if upright else batch[:, :, :16]
            assert (bright == 200).all() and batch.mean() == 100


def test_headers_tell_size_and_orientation_without_decoding(tmp_path):
    image = Image.new("RGB", (57, 31))
    for name, kwargs in {
        "a.jpg": {}, "b.jpg": {"progressive": True}, "c.png": {}, "d.bmp": {}, "e.webp": {},
        "f.webp": {"lossless": True},
    }.items():  # fmt: skip
        for tags in (None, exif(8)):
            image.save(tmp_path / name, **kwargs, **({"exif": tags} if tags else {}))
            header = read_header((tmp_path / name).read_bytes())
            assert (header.height, header.width) == (31, 57), name
            assert header.orientation == (8 if tags and name != "d.bmp" else 1), name
    image.save(tmp_path / "g.webp", exif=exif(3))
    content = (tmp_path / "a.jpg").read_bytes()
    filled = read_header(content[:2] + b"\xff" * 5 + content[2:])
    assert (filled.height, filled.width, filled.size) == (31, 57, (57, 31))  # it is stored on its side
    whole = (tmp_path / "g.webp").read_bytes()
    for data in (content, whole, (tmp_path / "c.png").read_bytes(), (tmp_path / "d.bmp").read_bytes()):
        for end in range(0, len(data), 7):
            read_header(data[:end])  # raises nothing
    for name in ("gif", "tif"):
        image.save(tmp_path / f"h.{name}")
        assert read_header((tmp_path / f"h.{name}").read_bytes()) is None


def headers_of_giants():
    yield "giant.png", b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 60000, 60000, 8, 2, 0, 0, 0)
    yield "giant.jpg", b"\xff\xd8\xff\xc0\0\x11\x08" + struct.pack(">HH", 65500, 65500) + bytes(40)
    yield "giant.bmp", b"BM" + bytes(12) + struct.pack("<Iii", 40, 2**31 - 1, -(2**31)) + bytes(40)
    yield "giant.gif", b"GIF89a" + struct.pack("<HH", 65000, 65000) + bytes(3) + b"," + bytes(4) + struct.pack(
        "<HH", 65000, 65000) + b"\0\x02\0;"  # fmt: skip


@pytest.mark.parametrize(
    ("name", "header"), headers_of_giants(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_giants_are_refused_by_their_header(tmp_path, name, header):
    (tmp_path / name).write_bytes(header)
    with pytest.raises(UnreadableImageError, match=rf"cannot decode image .*{name} \(.*more than 178,956,970 pixels\)"):
        decode(str(tmp_path / name))


def test_an_image_so_thin_that_it_would_grow_without_end_is_refused(tmp_path):
    Image.new("L", (60_000, 1)).save(tmp_path / "thin.png")
    picture, transform = Picture(str(tmp_path / "thin.png")), EvalTransform.resolve(TrainOptions(model="fastvit_t8"))
    with pytest.raises(UnreadableImageError, match=r"thin\.png \(resized to \d+ x 284, more than 178,956,970 pixels\)"):
        transform(picture)


def test_a_limit_holds_for_every_decoder(tmp_path, monkeypatch):
    monkeypatch.setattr(decoder, "MAX_PIXELS", 1000)
    for name in ("a.jpg", "b.png", "c.bmp", "d.webp", "e.gif", "f.tif"):
        Image.new("RGB", (40, 26)).save(tmp_path / name)
        with pytest.raises(UnreadableImageError, match=r"40 x 26, more than 1,000 pixels"):
            decode(str(tmp_path / name))
        Image.new("RGB", (40, 25)).save(tmp_path / name)
        assert decode(str(tmp_path / name)).shape == (25, 40, 3)


def test_what_cannot_be_read_says_why_in_one_line(tmp_path, capfd):
    Image.fromarray(PHOTO).save(tmp_path / "whole.jpg", quality=90, progressive=True)
    content = (tmp_path / "whole.jpg").read_bytes()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "page.jpg").write_text("<!DOCTYPE html>")
    for part in (0.3, 0.9, 0.99):
        (tmp_path / f"cut{part}.jpg").write_bytes(content[: int(part * len(content))])
    reasons = {"pipe.png": "not a regular file", "folder.png": "not a regular file", "empty.png": "the file is empty",
               "page.jpg": "no image of a known kind", "cut0.9.jpg": "truncated", "cut0.99.jpg": "truncated",
               "cut0.3.jpg": "truncated"}  # fmt: skip
    for name, reason in reasons.items():
        with pytest.raises(UnreadableImageError) as error:
            decode(str(tmp_path / name))
        assert reason in error.value.reason and "\n" not in str(error.value) and name in str(error.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("where", ["train", "validation", "report"])
def test_the_same_files_are_bad_everywhere_and_the_same_line_names_them(tmp_path, where):
    root = image_folder(tmp_path)
    (root / "val" / "a" / "1.png").write_bytes(b"not an image")
    opts = replace(options(root, train_split="val", batch_size=1, shuffle=False), num_classes=2)
    loader = {
        "train": lambda: create_train_loader(opts),
        "validation": lambda: create_eval_loader(opts),
        "report": lambda: image_loader(list_images(opts, "val").items, EvalTransform.resolve(opts), 2),
    }[where]()
    with pytest.raises(UnreadableImageError) as error:
        levels(loader)
    assert str(error.value) == (
        f"cannot decode image {root}/val/a/1.png (no image of a known kind, or a damaged one): replace or remove it, "
        "or use --skip_bad_images True to go on without it."
    )
    assert find_bad_images(opts, "val") == [f"{root}/val/a/1.png"]


def colours(root, names, count=2):
    for label, name in enumerate("abcdefghijkl"):
        if name in names:
            for i in range(count):
                flat(root / name / f"{i}.png", 20 * label + 20 + i)


def labelled(opts):
    """From the letter of each validation image's class to its label."""
    return {chr(ord("a") + (level - 20) // 20): label for level, label in levels(create_eval_loader(opts))}


def run_folder(tmp_path, names):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "classes.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return str(tmp_path / "run" / "net.ckpt")


def test_labels_go_by_the_names_beside_the_checkpoint(tmp_path, caplog):
    checkpoint = run_folder(tmp_path, "cab")
    colours(tmp_path / "val", "abc")
    opts = prepare(options(tmp_path, ckpt_path=checkpoint), ONE_DEVICE, training=False)
    assert opts.num_classes == 3 and labelled(opts) == {"c": 0, "a": 1, "b": 2}
    assert not caplog.text


def test_a_class_without_images_and_one_without_a_label_are_said(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    checkpoint = run_folder(tmp_path, "abc")
    colours(tmp_path / "val", "bcd")
    (tmp_path / "val" / "a").mkdir()
    opts = prepare(options(tmp_path, ckpt_path=checkpoint, num_classes=3), ONE_DEVICE, training=False)
    assert opts.num_classes == 3 and labelled(opts) == {"b": 1, "c": 2}
    assert "val: no images of 1 of the 3 classes: 'a'" in caplog.text
    assert "val: 1 class folders are left out" in caplog.text and "'d'" in caplog.text
    (tmp_path / "val" / "a").rmdir()
    assert labelled(prepare(options(tmp_path, ckpt_path=checkpoint), ONE_DEVICE, training=False)) == labelled(opts)


def test_classes_that_have_nothing_in_common_are_refused(tmp_path):
    checkpoint = run_folder(tmp_path, "ab")
    colours(tmp_path / "val", "cd")
    with pytest.raises(
        InputError, match=r"'c', 'd' in .*val are not among the 2 classes of .*classes\.txt \('a', 'b'\)"
    ):
        prepare(options(tmp_path, ckpt_path=checkpoint), ONE_DEVICE, training=False)


def test_validation_while_training_may_lack_a_class_but_not_have_another(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    colours(tmp_path / "train", "abc")
    colours(tmp_path / "val", "ac")
    opts = prepare(options(tmp_path, val_while_train=True), ONE_DEVICE, training=True)
    assert opts.num_classes == 3 and labelled(opts) == {"a": 0, "c": 2}
    assert "val: no images of 1 of the 3 classes: 'b'" in caplog.text
    colours(tmp_path / "val", "d")
    with pytest.raises(InputError, match=r"'d' in .*val is not among the 3 classes of train"):
        prepare(options(tmp_path, val_while_train=True), ONE_DEVICE, training=True)


def test_without_names_a_missing_class_is_not_guessed(tmp_path):
    colours(tmp_path / "val", "bc")
    given = options(tmp_path, num_classes=3, ckpt_path=str(tmp_path / "net.ckpt"))
    with pytest.raises(InputError, match=r"has 2 classes, whose labels cannot be told .* give --class_map a text file"):
        prepare(given, ONE_DEVICE, training=False)
    (tmp_path / "names.txt").write_text("c\na\nb\n")
    opts = prepare(replace(given, class_map=str(tmp_path / "names.txt")), ONE_DEVICE, training=False)
    assert labelled(opts) == {"c": 0, "b": 2}


def test_a_class_map_orders_training_too_and_natural_is_timms_order(tmp_path):
    for split in ("train", "val"):
        for number in range(12):
            flat(tmp_path / split / str(number) / "0.png", 10 * number)
    given = options(tmp_path, val_while_train=True, drop_remainder=False, **PLAIN)
    by_text = [int(name) for name in sorted(map(str, range(12)))]
    for class_map, order in ((None, by_text), ("natural", range(12)), (str(tmp_path / "map.txt"), range(11, -1, -1))):
        (tmp_path / "map.txt").write_text("".join(f"{number}\n" for number in range(11, -1, -1)))
        opts = prepare(replace(given, class_map=class_map), ONE_DEVICE, training=True)
        expected = sorted((10 * number, label) for label, number in enumerate(order))
        assert levels(create_train_loader(opts)) == levels(create_eval_loader(opts)) == expected
    assert natural_order(["b10", "B9", "a", "b1"]) == ["a", "b1", "B9", "b10"]


def test_a_part_of_imagenets_folders_has_imagenets_labels(tmp_path):
    for name in ("n01440764", "n02099601", "n15075141"):
        flat(tmp_path / "val" / name / "0.png", 50)
    opts = prepare(options(tmp_path, num_classes=1000), ONE_DEVICE, training=False)
    assert sorted(label for _, label in levels(create_eval_loader(opts))) == [0, 207, 999]


def test_a_class_folder_whose_name_is_no_text_is_named(tmp_path):
    folder = os.path.join(os.fsencode(tmp_path), b"train", b"caf\xe9")
    os.makedirs(folder)
    with pytest.raises(InputError, match=r"class folder 'caf\\udce9' in .*train is not named in UTF-8"):
        prepare(options(tmp_path), ONE_DEVICE, training=True)


def test_data_that_cannot_teach_is_refused_before_anything_is_built(tmp_path):
    colours(tmp_path / "train", "a", count=5)
    with pytest.raises(InputError, match=r"train has one class, so that there is nothing to learn"):
        prepare(options(tmp_path), ONE_DEVICE, training=True)
    colours(tmp_path / "train", "b", count=4)
    opts = prepare(options(tmp_path, drop_remainder=False), ONE_DEVICE, training=True)
    with pytest.raises(InputError, match=r"the last batch of an epoch has one image \(batch_size 4\), .* at 32 x 32"):
        create_train_loader(opts)
    assert len(create_train_loader(replace(opts, image_resize=(64,)))) == 3
    assert len(create_train_loader(replace(opts, batch_size=5))) == 2


@pytest.mark.parametrize(
    "name", ["../x.png", "a/../../x.png", "/etc/a/x.png", "x.png", "a//0.png", "./a/0.png", "a/./0.png"]
)
def test_a_split_does_not_lead_out_of_its_folder(tmp_path, name):
    colours(tmp_path / "photos", "ab")
    flat(tmp_path / "x.png", 1)
    (tmp_path / "split.json").write_text(json.dumps({"train": ["a/0.png", name], "val": ["b/0.png"]}))
    given = options(tmp_path / "photos", split_file=str(tmp_path / "split.json"))
    with pytest.raises(InputError, match="which is not <class>/<image> below data_dir"):
        prepare(given, ONE_DEVICE, training=True)


def test_an_image_in_both_parts_of_a_split_is_refused(tmp_path):
    colours(tmp_path / "photos", "ab")
    (tmp_path / "split.json").write_text(json.dumps({"train": ["a/0.png", "b/0.png"], "val": ["b/1.png", "b/0.png"]}))
    given = options(tmp_path / "photos", split_file=str(tmp_path / "split.json"))
    for training in (True, False):
        with pytest.raises(InputError, match=r"split\.json has b/0\.png in both parts: validation must not see"):
            prepare(given, ONE_DEVICE, training)


def test_accents_may_be_composed_or_not(tmp_path, caplog):
    """macOS writes an accent as a letter of its own; a disk that comes from there has the same classes."""
    data = image_folder(tmp_path, train=(("caf\u00e9", 2), ("the", 2)), val=(("cafe\u0301", 2), ("the", 1)))
    prepared = prepare(options(data, val_while_train=True), ONE_DEVICE, training=True)
    images = list_images(prepared, "val")
    assert images.labels.tolist() == [0, 0, 1]
    assert images.items[0].endswith("cafe\u0301/0.png") and "no images of" not in caplog.text


def test_images_that_came_after_the_split_are_counted(tmp_path):
    data = image_folder(tmp_path / "data") / "train"
    first = options(data, val_ratio=0.5, ckpt_save_dir=str(tmp_path))
    prepared = prepare(first, ONE_DEVICE, training=True)
    assert not list_images(prepared, "train").left_out
    (data / "a" / "notes.txt").write_text("")
    (data / "b" / ".ipynb_checkpoints").mkdir()
    for name in ("a/new.png", "b/deep/new.png"):
        (data / name).parent.mkdir(exist_ok=True)
        (data / name).write_bytes(b"")
    images = list_images(prepared, "train")
    assert images.left_out == {"images that are in no part of the split": 2, ".txt": 1, "hidden": 1}
    assert not any("new" in path for path in images.items)


def test_the_folder_of_classes_in_place_of_the_one_above_is_said(tmp_path):
    image_folder(tmp_path)
    with pytest.raises(InputError, match=r"train/train: .*train has class folders itself; use --val_ratio"):
        prepare(options(tmp_path / "train"), ONE_DEVICE, training=True)
    with pytest.raises(InputError, match="set data_dir and the name of its split"):
        prepare(options(tmp_path / "val" / "a"), ONE_DEVICE, training=True)


def test_a_phones_own_format_is_named(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(UnreadableImageError, match="HEIC or AVIF, which is not read here; save it as JPEG or PNG"):
        decode(str(tmp_path / "a.jpg"))

"""Options: types, precedence, MindCV's recipes, and what is refused."""

import os
import re
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from mindcv_models.classification.options import InferOptions, TrainOptions, ValidateOptions
from mindcv_models.detection import export as detection_export
from mindcv_models.detection import options as detection
from mindcv_models.errors import InputError
from mindcv_models.options import Group, RunOptions, option, parse, peek, read_recipe, save_options, titled_fields
from mindcv_models.options.backbone import Backbone
from mindcv_models.options.parse import suggest
from mindcv_models.segmentation import export as segmentation_export
from mindcv_models.segmentation import options as segmentation

# MindCV's layout, old key names, numbers that YAML reads as text, and keys that mean nothing here.
RECIPE = """
# system
mode: 0
distribute: True
val_amp_level: 'O2'
# augmentation
scale: [0.08, 1.0]
re_value: 'random'
# model
model: 'resnet18'
ckpt_save_dir: ''
# loss
loss: 'ce'
loss_scale: 1024
# optimizer
lr: 5e-4
filter_bias_and_bn: True
dynamic_loss_scale: False
"""


def options(*arguments):
    return parse(TrainOptions, "test", list(arguments))


def test_the_command_line_wins_over_yaml_and_yaml_over_defaults(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    parsed = options("-c", str(recipe), "--distribute", "False", "--batch_size", "16")
    assert (parsed.distribute, parsed.batch_size, parsed.model) == (False, 16, "resnet18")
    assert (parsed.lr, parsed.loss, parsed.loss_scale, parsed.scale) == (5e-4, "CE", 1024.0, (0.08, 1.0))
    assert (parsed.weight_decay_filter, parsed.loss_scale_type, parsed.re_value) == ("norm_and_bias", "fixed", "random")
    assert parsed.epoch_size == TrainOptions.epoch_size


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--ema"], "ema", True),
        (["--ema", "no"], "ema", False),
        (["--scale", "0.5", "1.0"], "scale", (0.5, 1.0)),
        (["--scale", "[0.5, 1.0]"], "scale", (0.5, 1.0)),
        (["--scale", "(0.5,1)"], "scale", (0.5, 1.0)),
        (["--multi_step_decay_milestones", "3", "6"], "multi_step_decay_milestones", (3, 6)),
        (["--num_classes", "None"], "num_classes", None),
        (["--color_jitter", "None"], "color_jitter", None),
        (["--dataset", ""], "dataset", ""),
        (
            ["--model_kwargs", "alpha=0.2", "window_size=[7,7,4,2]"],
            "model_kwargs",
            {"alpha": 0.2, "window_size": [7, 7, 4, 2]},
        ),
        (["--model_kwargs", "None"], "model_kwargs", None),
        (["--opt", "AdamW"], "opt", "adamw"),
    ],
)
def test_words_become_typed_values(arguments, name, value):
    parsed = getattr(options(*arguments), name)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bacth_size", "8"], "unknown option --bacth_size: did you mean --batch_size?"),
        (["--ema", "maybe"], "ema is 'maybe', but must be True or False."),
        (["--batch_size", "8.5"], "batch_size is '8.5', but must be a whole number."),
        (["--batch_size", "0"], "batch_size is 0, but must be at least 1."),
        (["--lr"], "--lr takes one value, but got 0"),
        (["--model_kwargs", "alpha"], "but must be pairs such as alpha=0.2."),
        (["--scale", "0.1"], "scale is 0.1, but must be two numbers"),
        (["--opt", "adamm"], "opt is 'adamm', which is not known: did you mean adam?"),
        (["--amp_level", "O9"], "amp_level is 'O9', which is not known"),
        (["--dataset", "cifar1O"], "dataset is 'cifar1O', which is not known: did you mean cifar10?"),
        (["--num_classes", "0"], "num_classes is 0, but must be at least 1."),
        (["--mean", "1", "2"], "mean is 1.0 2.0, but must be 3 numbers, one for each channel."),
        (["--std", "0", "1", "1"], "std is 0.0 1.0 1.0, but must be above 0 and at most 255."),
        (["--ckpt_save_policy", "top_k"], "set val_while_train to True"),
        (["-c", "absent.yaml"], "cannot read the configuration absent.yaml"),
    ],
)
def test_wrong_input_is_one_clear_line(arguments, message):
    with pytest.raises(InputError) as error:
        options(*arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 3", "unknown key 'epochs': did you mean epoch_size?"),
        ("data-dir: x", "unknown key 'data-dir': did you mean data_dir?"),
        ("optimizer:\n  lr: 0.1", "unknown key 'optimizer': keys are not grouped"),
        ("lr: 0.1\nlr: 0.2", "line 2 is not YAML (lr stands twice)"),
        ("sophia_k: 5\nk: 3", "k is an older name of sophia_k, which is there too"),
        ("", "is not a YAML mapping"),
        ("lr: 0,001", "lr is '0,001', but must be a number: write 0.001."),
        ("crop_pct: 95%", "crop_pct is '95%', but must be a number: write 0.95."),
        ("crop_pct: 95", "crop_pct is 95.0, but must be above 0 and at most 1; for 95 % write 0.95."),
        ("image_resize: 224x192", "image_resize is '224x192', but must be whole numbers: write 224 192."),
        ("image_resize: big", "image_resize is 'big', but must be whole numbers, such as 224, or 192 320."),
        ("image_resize: 3 224 224", "must be one size, or height and width (for 224 224 write these two)."),
        ("lr: .nan", "lr is '.nan', but must be a number."),
        ("lr: inf", "lr is 'inf', but must be a number."),
        ("hflip: nan", "hflip is 'nan', but must be a number."),
        ("scale: [nan, 1]", "scale is nan 1, but must be numbers, such as 0.08 1.0."),
        ("seed: 1e30", "seed is '1e30', but must be a whole number."),
        ("epoch_size: -1", "epoch_size is -1, but must be at least 1."),
        ("drop_path_rate: 1", "drop_path_rate is 1.0, but must be at least 0 and below 1."),
        ("clip_grad: 5.0", "clip_grad is '5.0', but must be True or False, such as True; clip_value is the norm."),
        (
            "model_kwargs: {num_classes: 3}",
            "model_kwargs has num_classes: leave it out there, and use the option num_c",
        ),
        (
            "model_kwargs: {checkpoint_path: a.ckpt}",
            "model_kwargs has checkpoint_path: leave it out there, and use the",
        ),
        ("teacher_kwargs: {pretrained: True}", "teacher_kwargs has pretrained: leave it out"),
        ("model_kwargs: {alpha: .inf}", "but must be pairs such as alpha=0.2."),
        ("model_kwargs: [1]", "model_kwargs is 1, but must be pairs"),
        ("a: b: c", "is not YAML"),
        ("- a list", "is not a YAML mapping"),
        ("lr: fast", "lr is 'fast', but must be a number."),
        ("batch_size: [1, 2]", "batch_size is 1 2, but must be a whole number."),
    ],
)
def test_wrong_yaml_is_one_clear_line(tmp_path, text, message):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    with pytest.raises(InputError, match=re.escape(message)):
        options("-c", str(recipe))


def test_saved_options_read_back_the_same(tmp_path):
    before = options("--scale", "0.5", "1.0", "--re_value", "random", "--ema", "--drop_path_rate", "0.1")
    save_options(before, tmp_path / "config.yaml")
    assert options("-c", str(tmp_path / "config.yaml")) == before


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit):
        options("--help")
    text = capsys.readouterr().out
    assert all(f"--{name}" in text for name in TrainOptions.__dataclass_fields__)


def from_recipe(folder, text, *arguments, cls=TrainOptions):
    recipe = folder / "recipe.yaml"
    recipe.write_bytes(text if isinstance(text, bytes) else text.encode())
    return parse(cls, "test", ["-c", str(recipe), *arguments])


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("lr: 1e-3", "lr", 1e-3),
        ("batch_size: 010", "batch_size", 10),  # 8 in YAML 1.1
        ("epoch_size: 3.0", "epoch_size", 3),
        ("opt_betas: [9e-1, 0.999]", "opt_betas", (0.9, 0.999)),
        ("scale: '[0.08, 1.0]'", "scale", (0.08, 1.0)),
        ("scale: (0.5, 1)", "scale", (0.5, 1.0)),
        ("ema: Y", "ema", True),
        ("ema: on", "ema", True),
        ("ema: F", "ema", False),
        ("ckpt_save_dir: 2026-11-25", "ckpt_save_dir", "2026-11-25"),
        ("ckpt_save_dir: 12:30", "ckpt_save_dir", "12:30"),  # 750 in YAML 1.1
        ("ckpt_save_dir: 007", "ckpt_save_dir", "007"),
        ("rho: 0.1", "sophia_rho", 0.1),
        ("k: 5", "sophia_k", 5),
        ("<<: {lr: 0.1}\nmin_lr: 0.0", "lr", 0.1),
        ("re_value: [1, 2.5, 0]", "re_value", [1, 2.5, 0]),
        ("model_kwargs: {alpha: 2e-1}", "model_kwargs", {"alpha": 0.2}),
        (
            "model_kwargs: {a: [1e3, -2], b: {c: .5}, d: yes, e: null, f: gelu, g: '2e-1', h: 007}",
            "model_kwargs",
            {"a": [1000.0, -2], "b": {"c": 0.5}, "d": True, "e": None, "f": "gelu", "g": "2e-1", "h": 7},
        ),
    ],
)
def test_the_option_decides_what_an_unquoted_word_means(tmp_path, text, name, value):
    parsed = getattr(from_recipe(tmp_path, text), name)
    assert repr(parsed) == repr(value)


@pytest.mark.parametrize("empty", ["", " ", " null", " ~", " None"])
def test_an_empty_value_is_not_given(tmp_path, empty):
    base = tmp_path / "base.yaml"
    base.write_text("ckpt_path: a.ckpt\nnum_classes: 3\nlr: 0.5\nmodel_kwargs: {alpha: 0.1}\n")
    names = ("ckpt_path", "num_classes", "lr", "model_kwargs")
    parsed = from_recipe(tmp_path, "base: base.yaml\n" + "".join(f"{name}:{empty}\n" for name in names))
    assert [getattr(parsed, name) for name in names] == ["", None, TrainOptions.lr, None]


def test_an_optional_option_with_a_default_tells_empty_from_none(tmp_path):
    assert from_recipe(tmp_path, "color_jitter:").color_jitter == (0.4, 0.4, 0.4)
    assert from_recipe(tmp_path, "color_jitter: null").color_jitter is None


@pytest.mark.parametrize(
    "encoded",
    [
        "# 学习率\ndata_dir: 数据".encode(),
        "\ufeff# 学习率\ndata_dir: 数据".encode(),
        "# 学习率\r\ndata_dir: 数据\r\n".encode(),
    ],
)
def test_a_recipe_is_utf8_with_or_without_a_mark(tmp_path, encoded):
    assert from_recipe(tmp_path, encoded).data_dir == "数据"


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        ("lr: 0.1\n# 学习率\n".encode("gbk"), "recipe.yaml, line 2 is not UTF-8: save the file as UTF-8 text."),
        ("lr: 0.1\n".encode("utf-16"), "recipe.yaml, line 1 is not UTF-8: save the file as UTF-8 text."),
        (b"mode: 0\n" + "lr: 0.1\n".encode("utf-16-le"), "recipe.yaml, line 2 is not UTF-8: save the file as"),
        (b"lr: 0.1\n---\nlr: 0.2\n", "recipe.yaml, line 2 is not YAML"),
        (b"lr:\n\t- 0.1\n", "recipe.yaml, line 2 is not YAML"),
        (b"lr: " + b"[" * 5000, "is not YAML"),
        (b"[a, b]: 1", "is not YAML"),
        (b"lr: !!python/object/apply:os.getcwd []", "is not YAML"),
        (b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
            b"%c: &%c [%s]\n" % (98 + i, 98 + i, b", ".join([b"*%c" % (97 + i)] * 9)) for i in range(9)),
         "is not YAML (its aliases stand for too much)"),
        (b"model_kwargs: {a: &a [x, x, x, x, x, x, x, x, x], " + b", ".join(
            b"%c: &%c [%s]" % (98 + i, 98 + i, b", ".join([b"*%c" % (97 + i)] * 9)) for i in range(9)) + b"}",
         "is not YAML (its aliases stand for too much)"),
        (b"lr: &a [*a]", "is not YAML (its aliases stand for too much)"),
        (b"lr: [" + b"1, " * 5000 + b"1]", "lr is 1 1 1 1 1 1 1 1 ..., but must be a number."),
        (b"model: " + b"m" * 5000 + b"\nopt: " + b"o" * 5000, "opt is 'ooo"),
        (b"#" * (2**20 + 1), "has more than 1 MB"),
    ],
    ids=["gbk", "utf-16", "no mark", "two documents", "tab", "deep", "key", "tag", "bomb", "bomb below", "loop", "list",
         "long", "large"],
)  # fmt: skip
def test_what_is_no_recipe_is_one_short_line(tmp_path, encoded, message):
    with pytest.raises(InputError) as refused:
        from_recipe(tmp_path, encoded)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 500


@pytest.mark.parametrize("key", ["model", "base", "filter_bias_and_bn", "ema"])
def test_no_key_writes_a_bomb_out(tmp_path, key):
    levels = ["&a0 [x, x, x, x, x, x, x, x]", *(f"&a{i} [{', '.join([f'*a{i - 1}'] * 8)}]" for i in range(1, 12))]
    (tmp_path / "bomb.yaml").write_text(f"{key}: {{z: [{', '.join(levels)}]}}\n")
    for read in (lambda *words: peek("model", words), options):
        with pytest.raises(InputError, match="its aliases stand for too much"):
            read("-c", str(tmp_path / "bomb.yaml"))


def test_a_pipe_or_a_folder_is_no_recipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "a\0b"):
        with pytest.raises(InputError, match="give the path of a YAML file"):
            options("-c", str(path))


def test_a_tilde_is_the_home_folder_in_every_path_and_in_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    text = "ckpt_save_dir: ~/runs/a\ndata_dir: '~/photos'\nckpt_path: ~/w.ckpt\ntrain_split: ~x\nresume: auto"
    parsed = from_recipe(tmp_path, text, "--teacher_path=~/t.ckpt", "--split_file", "a~/s.json")
    assert (parsed.ckpt_save_dir, parsed.data_dir, parsed.ckpt_path, parsed.teacher_path) == (
        "/home/ada/runs/a", "/home/ada/photos", "/home/ada/w.ckpt", "/home/ada/t.ckpt",
    )  # fmt: skip
    assert (parsed.train_split, parsed.split_file, parsed.resume) == ("~x", "a~/s.json", "auto")
    assert options("--data_dir=~").data_dir == "/home/ada"
    several = parse(ValidateOptions, "", ["--ckpt_path=~/a.ckpt"]).ckpt_path
    assert several == (Path("/home/ada/a.ckpt"),)
    assert from_recipe(tmp_path, "ckpt_path: [~/a, b]", cls=ValidateOptions).ckpt_path == (
        Path("/home/ada/a"), Path("b"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("~nobody_at_all/a", "data_dir is '~nobody_at_all/a', but there is no such home folder: write the whole path."),
        ("${NOT_SET}/a", "data_dir is '${NOT_SET}/a', but ${NOT_SET} is not set: set it, or write the whole path."),
        ("$NOT_SET/a", "data_dir is '$NOT_SET/a', but $NOT_SET is not set"),
        ("/data/${NOT_SET}", "data_dir is '/data/${NOT_SET}', but ${NOT_SET} is not set"),
    ],
)
def test_a_home_or_a_variable_that_is_not_there_is_refused(tmp_path, monkeypatch, path, message):
    monkeypatch.delenv("NOT_SET", raising=False)
    with pytest.raises(InputError, match=re.escape(message)):
        from_recipe(tmp_path, f"data_dir: {path}")


def test_variables_are_expanded_in_every_path_and_in_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setenv("SCRATCH", "/scratch/ada")
    monkeypatch.setenv("RUN", "7")
    text = "ckpt_save_dir: $SCRATCH/runs/${RUN}\ndata_dir: ${SCRATCH}/a$RUN\ntrain_split: $RUN"
    parsed = from_recipe(tmp_path, text, "--split_file=$SCRATCH/s.json")
    assert (parsed.ckpt_save_dir, parsed.data_dir) == ("/scratch/ada/runs/7", "/scratch/ada/a7")
    assert (parsed.train_split, parsed.split_file) == ("$RUN", "/scratch/ada/s.json")


def test_a_path_with_a_dollar_is_taken_where_it_exists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "$x").mkdir()
    assert options("--data_dir", "$x").data_dir == "$x"
    assert options("--data_dir", "a$x").data_dir == "a$x"


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ("--mean 0.485 0.456 0.406", "mean is 0.485 0.456 0.406, which is on the scale 0 to 1, but pixels are from 0 "
         "to 255 here: write 123.675 116.28 103.53."),
        ("--std 0.229 0.224 0.225", "std is 0.229 0.224 0.225, which is on the scale 0 to 1, but pixels are from 0 to "
         "255 here: write 58.395 57.12 57.375."),
        ("--mean 0 0 0 --std 1 1 1", "write 255 255 255."),
        ("--mean 0.5 0.5 0.5 --std 0.5 0.5 0.5", "write 127.5 127.5 127.5."),
        ("--mean 0.5 --std 0.5 --in_channels 1", "write 127.5."),
    ],
)  # fmt: skip
@pytest.mark.parametrize("cls", [TrainOptions, ValidateOptions, InferOptions])
def test_a_mean_on_the_scale_0_to_1_is_refused_with_what_was_meant(cls, arguments, meant):
    needed = {ValidateOptions: "--ckpt_path a", InferOptions: "--ckpt_path a --images b"}.get(cls, "")
    with pytest.raises(InputError, match=re.escape(meant)):
        parse(cls, "", f"{arguments} {needed}".split())


@pytest.mark.parametrize("arguments", ["--mean 104 117 123 --std 1 1 1", "--mean 0 0 0 --std 255 255 255"])
def test_a_mean_on_the_scale_0_to_255_is_taken(arguments):
    assert options(*arguments.split()).std[0] in (1.0, 255.0)


def test_timms_names_are_told_the_ones_of_the_guide():
    """Every timm option in the guide's table is answered with the option that its row has."""
    guide = (Path(__file__).parents[1] / "docs" / "from-timm.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|", guide.partition("## From timm")[2], re.MULTILINE)
    answered = 0
    for theirs, ours in rows:
        for name in re.findall(r"[a-z][a-z-]+", theirs if "`--" in ours else ""):
            if name in ("with", "cosine"):
                continue
            wanted = {f"did you mean {option}?" for option in re.findall(r"--\w+", ours)}
            assert suggest(f"--{name}", TrainOptions) in wanted, name
            answered += 1
    assert answered > 30


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (TrainOptions, "--amp True", "unknown option --amp: did you mean --amp_level?"),
        (TrainOptions, "--input_size 3 64 64", "unknown option --input_size: did you mean --image_resize?"),
        (TrainOptions, "--sched=cosine", "unknown option --sched=cosine: did you mean --scheduler?"),
        (TrainOptions, "--data-dir x", "unknown option --data-dir: did you mean --data_dir?"),
        (TrainOptions, "--patience 5", "unknown option --patience: did you mean --early_stopping?"),
        (TrainOptions, "--k 5", "unknown option --k: did you mean --sophia_k?"),
        (TrainOptions, "--lr -1e-3", "'-1e-3' is taken for an option: join it to its own by =, as in --lr=-1e-3."),
        (TrainOptions, "--lr=-1e-3", "lr is -0.001, but must be above 0."),
        (TrainOptions, "a.yaml", "'a.yaml' belongs to no option: write --config before it."),
        (TrainOptions, "--report_dir x", "it is an option of validate.py, and train.py does not use it; leave it out."),
        (InferOptions, "--lr 1", "unknown option --lr: it is an option of train.py, and infer.py does not use it; lea"),
        (InferOptions, "--mixup 1", "unknown option --mixup: it is an option of train.py, and infer.py does not use"),
        (
            InferOptions,
            "--epochs 1",
            "unknown option --epochs: it is --epoch_size, an option of train.py, and infer.py",
        ),
        (InferOptions, "--toppk 1", "unknown option --toppk: did you mean --topk?"),
        (
            ValidateOptions,
            "--epoch_size 1",
            "unknown option --epoch_size: it is an option of train.py, and validate.py",
        ),
        (ValidateOptions, "--zzz", "unknown option --zzz: see --help."),
    ],
)
def test_an_option_that_a_script_does_not_have_is_refused_with_what_to_do(monkeypatch, cls, arguments, message):
    script = {TrainOptions: "train.py", ValidateOptions: "validate.py", InferOptions: "infer.py"}[cls]
    monkeypatch.setattr("sys.argv", [script])
    with pytest.raises(InputError, match=re.escape(message)):
        parse(cls, "", arguments.split())


def test_scripts_share_recipes(tmp_path):
    text = "lr: 0.5\nreport_dir: r\ntopk: 3\ncam: c\ncrop_pct: 0.9\nema: True\nbatch_size: 4\nscale: nonsense\n"
    infer = from_recipe(tmp_path, text, "--ckpt_path", "a", "--images", "b", cls=InferOptions)
    assert (infer.topk, infer.cam, infer.crop_pct, infer.load_ema, infer.batch_size) == (3, "c", 0.9, None, 4)
    validate = from_recipe(tmp_path, text, "--ckpt_path", "a", "b", cls=ValidateOptions)
    assert (validate.report_dir, validate.crop_pct, validate.ckpt_path) == ("r", 0.9, (Path("a"), Path("b")))
    assert not hasattr(infer, "lr") and not hasattr(validate, "lr")
    with pytest.raises(InputError, match=r"recipe\.yaml: unknown key 'lrr': did you mean lr\?"):
        from_recipe(tmp_path, "lrr: 1", "--ckpt_path", "a", cls=ValidateOptions)


def test_every_recipe_is_read_by_every_script():
    recipes = sorted((Path(__file__).parents[1] / "configs").glob("*/*.yaml"))
    names = {f.name for f in fields(TrainOptions)}
    for recipe in recipes:
        if not set(read_recipe(str(recipe))) <= names:
            continue  # another task's
        trained = options("-c", str(recipe))
        for cls in (ValidateOptions, InferOptions):
            arguments = ["-c", str(recipe), "--ckpt_path", "a"] + ["--images", "b"] * (cls is InferOptions)
            same = parse(cls, "", arguments)
            assert (same.model, same.crop_pct, same.amp_level) == (trained.model, trained.crop_pct, trained.amp_level)
    assert len(recipes) > 50


def test_options_of_every_task_are_free_of_any():
    own = {"label_smoothing", "mixup", "cutmix", "mean", "std", "crop_pct", "data_dir", "teacher_path", "hflip", "loss"}
    names = {f.name for f in fields(RunOptions)}
    assert own <= {f.name for f in fields(TrainOptions)} and not own & names
    assert {"mode", "lr", "opt", "resume", "nan_policy", "amp_level", "early_stopping", "warmup_steps"} <= names


def test_another_task_adds_its_own_groups(tmp_path):
    @dataclass
    class Boxes(Group):
        title = "Boxes"
        data_dir: str = option("./", "folder", path=True)
        max_boxes: int = option(100, "boxes per image", at_least=1)

        def check(self):
            if self.max_boxes == 7:
                raise InputError("max_boxes is 7, which cannot be meant.")

    @dataclass
    class DetectionOptions(RunOptions, Backbone, Boxes):
        title = "Detection"

        @classmethod
        def scripts(cls):
            return {"train.py": DetectionOptions}

    parsed = from_recipe(tmp_path, "max_boxes: 3\nwarmup_epochs: 0\nwarmup_steps: 500", cls=DetectionOptions)
    assert (parsed.max_boxes, parsed.warmup_steps, parsed.backbone, parsed.lr) == (3, 500, "litv2_s", 0.001)
    for arguments, message in (
        (["--max_boxes", "0"], "max_boxes is 0, but must be at least 1."),
        (["--max_boxes", "7"], "max_boxes is 7, which cannot be meant."),
        (["--mixup", "1"], "unknown option --mixup: see --help."),
        (
            ["--model_kwargs", "backbone=a"],
            "model_kwargs has backbone: leave it out there, and use the option backbone.",
        ),
        (["--early_stopping", "3"], "early_stopping goes by validation: set val_while_train to True."),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            parse(DetectionOptions, "", arguments)
    assert list(titled_fields(DetectionOptions))[-2:] == ["Schedule", "Boxes"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--warmup_steps 500", "warmup_epochs is 3 and warmup_steps 500: set one of them to 0."),
        ("--warmup_steps -1", "warmup_steps is -1, but must be at least 0."),
        ("--min_lr 0.1 --lr 0.01", "min_lr is 0.1, above lr, 0.01"),
        ("--model_kwargs a=1 a=2", "model_kwargs is 'a=1 a=2', but must be pairs"),
        ("--steps_per_epoch 0", "steps_per_epoch is 0, but must be at least 1."),
        ("--early_stopping 2", "early_stopping goes by validation: set val_while_train to True."),
        ("--stop_if_stuck 2", "stop_if_stuck goes by validation: set val_while_train to True."),
        ("--scheduler cyclic --warmup_epochs 0 --warmup_steps 5", "cyclic has its own warm-up in every step"),
    ],
)
def test_new_options_are_checked(arguments, message):
    with pytest.raises(InputError, match=re.escape(message)):
        options(*arguments.split())


def test_groups_in_help_hold_what_belongs_to_them(capsys):
    for cls, expected in (
        (TrainOptions, {"Safety": {"nan_policy", "stop_if_stuck", "early_stopping"},
                        "Precision": {"amp_level", "amp_cast_list", "loss_scale_type", "loss_scale",
                                      "drop_overflow_update"},
                        "Epochs": {"epoch_size", "steps_per_epoch", "val_while_train", "val_interval"},
                        "Images": {"image_resize", "interpolation", "crop_pct", "crop_mode", "mean", "std"}}),
        (InferOptions, {"System": {"mode", "device_target"}, "Data": {"batch_size", "num_parallel_workers"},
                        "Prediction": {"images", "reparam", "topk", "format", "class_names", "tta", "cam"}}),
    ):  # fmt: skip
        with pytest.raises(SystemExit):
            parse(cls, "test", ["--help"])
        sections = re.split(r"^(\w+):$", capsys.readouterr().out, flags=re.MULTILINE)
        shown = {
            title: set(re.findall(r"^  --(\w+)", text, re.MULTILINE))
            for title, text in zip(sections[1::2], sections[2::2])
        }
        for title, names in expected.items():
            assert names <= shown[title]
        assert set().union(*shown.values()) == {f.name for f in fields(cls)}


@pytest.mark.parametrize(
    ("arguments", "model"),
    [
        ("", None),
        ("--lr 1 --model resnet18 --scale 0.5 1", "resnet18"),
        ("--model=resnet18 --unknown", "resnet18"),
        ("-c {recipe}", "fastvit_s12"),
        ("--config={recipe} --lr -1", "fastvit_s12"),
        ("-c {recipe} --model litv2_s", "litv2_s"),
        ("-c {child}", "fastvit_s12"),
        ("--model", None),
    ],
)
def test_peek_finds_one_option_and_looks_at_nothing_else(tmp_path, arguments, model):
    recipe, child = tmp_path / "recipe.yaml", tmp_path / "child.yaml"
    recipe.write_text("what: ever\nmodel: fastvit_s12\nlr: fast\n")
    child.write_text("base: recipe.yaml\n")
    assert peek("model", arguments.format(recipe=recipe, child=child).split()) == model


def test_the_saved_configuration_replaces_a_link_and_keeps_its_types(tmp_path):
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / "config.yaml").symlink_to(tmp_path / "elsewhere")
    before = options("--model_kwargs", "a='2e-1'", "b=[1,2]", "--train_split", "007", "--data_dir", "ä", "--mean",
                     "1.5", "2", "3")  # fmt: skip
    save_options(before, tmp_path / "config.yaml")
    assert (tmp_path / "elsewhere").read_text() == "mine"
    assert options("-c", str(tmp_path / "config.yaml")) == before
    assert before.model_kwargs == {"a": "2e-1", "b": [1, 2]} and before.train_split == "007"


def test_a_mapping_on_the_command_line_with_a_word_that_is_no_pair_is_refused():
    with pytest.raises(InputError, match=r"but must be pairs such as alpha=0.2"):
        options("--model_kwargs", "alpha=0.2", "beta")
    assert options("--model_kwargs", "{alpha: 2e-1}").model_kwargs == {"alpha": 0.2}


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (detection.TrainOptions, "--img_scale 100000 800", "img_scale is 100000 800, but must be from 32 to 8192."),
        (detection.TrainOptions, "--ratio_range 0.5 9", "ratio_range is 0.5 9.0, but must be above 0 and at most 8."),
        (
            detection.TrainOptions,
            "--img_scale 8192 800 --ratio_range 1 3",
            "ratio_range is 1.0 3.0, at which images get sides of 24576 pixels, but 16384 is the most",
        ),
        (segmentation.TrainOptions, "--crop_size 100000 512", "crop_size is 100000 512, but must be from 32 to 8192."),
        (segmentation.ValidateOptions, "--window 512 9000", "window is 512 9000, but must be from 32 to 8192."),
        (
            segmentation.ValidateOptions,
            "--img_scale 8000 512 --tta_ratios 1 4 --ckpt_path x.ckpt",
            "tta_ratios is 1.0 4.0, at which images get sides of 32000 pixels",
        ),
        (detection_export.ExportOptions, "--image_resize 32000", "image_resize is 32000, but must be from 32 to 8192."),
        (segmentation_export.ExportOptions, "--image_resize 32000", "image_resize is 32000, but must be from 32 to"),
    ],
)
def test_sizes_that_no_memory_holds_are_refused(cls, arguments, message):
    with pytest.raises(InputError, match=re.escape(message)):
        parse(cls, "", ["--model", "retinanet", *arguments.split()])

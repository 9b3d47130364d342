"""Options: types, precedence, MindCV's recipes, and what is refused."""

import pytest

from mindcv_models.classification.options import TrainOptions
from mindcv_models.errors import InputError
from mindcv_models.options import parse, save_options

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
        ("a: b: c", "is not YAML"),
        ("- a list", "is not a YAML mapping"),
        ("lr: fast", "lr is 'fast', but must be a number."),
        ("batch_size: [1, 2]", "batch_size is 1 2, but must be a whole number."),
    ],
)
def test_wrong_yaml_is_one_clear_line(tmp_path, text, message):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    with pytest.raises(InputError, match=message.replace("?", r"\?").replace(".", r"\.")):
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

"""Image sizes that a network does not support: a one-line error and status 2 in every script."""

import pytest
from mindcv.models.registry import register_model
from mindspore import nn

from mindcv_models import create_model
from mindcv_models.checkpoint import save_checkpoint
from mindcv_models.input_size import explain_size_errors
from tests.helpers.scripts import call, common, train_arguments

default_cfgs = {"fixed": {"input_size": (3, 32, 32)}}


class Fixed(nn.Cell):
    """A classifier of images of 32 x 32 alone."""

    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Dense(3 * 4 * 4, num_classes)
        self.pool = nn.AvgPool2d(8, 8)

    def construct(self, x):
        return self.head(self.pool(x).reshape(-1, 3 * 4 * 4))


@register_model
def fixed(num_classes=2, pretrained=False, in_channels=3):
    return Fixed(num_classes)


@pytest.fixture
def weights(tmp_path):
    save_checkpoint(create_model("fixed", num_classes=2).get_parameters(), tmp_path / "fixed.ckpt")
    return str(tmp_path / "fixed.ckpt")


REFUSAL = "error: fixed does not support images of 40 x 40 ("


@pytest.mark.parametrize("mode", ["0", "1"])
@pytest.mark.parametrize("who", ["student", "teacher"])
def test_training_says_which_network_does_not_take_the_size(images, tmp_path, monkeypatch, capsys, weights, who, mode):
    arguments = train_arguments(images, tmp_path / "out", "--image_resize", "40", "--mode", mode)
    if who == "student":
        arguments += ["--model", "fixed"]
    else:
        arguments += ["--distillation_type", "hard", "--teacher_model", "fixed", "--teacher_path", weights]
    status, _, error = call("train", arguments, monkeypatch, capsys)
    assert status == 2
    assert error.startswith(REFUSAL)
    assert error.endswith("): use image_resize 32, or another model.\n")
    assert error.count("\n") == 1


def test_validation_says_so_too(images, tmp_path, monkeypatch, capsys, weights):
    arguments = [*common(images), "--model", "fixed", "--image_resize", "40", "--ckpt_path", weights]
    status, _, error = call("validate", arguments, monkeypatch, capsys)
    assert status == 2
    assert error.startswith(REFUSAL)
    assert error.count("\n") == 1


def test_an_error_of_another_kind_stays_what_it_is():
    with pytest.raises(ValueError, match=r"^neither$") as caught, explain_size_errors([("fixed", fixed())], (32, 32)):
        raise ValueError("neither")
    assert type(caught.value) is ValueError

"""The network of Semantic FPN: names, sizes, backbones, first values, export; its numbers are in tests/data/dense."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

import mindcv_models
from mindcv_models import backend
from mindcv_models.checkpoint.names import official_buffers, torch_names
from mindcv_models.errors import InputError
from mindcv_models.export import Preparation
from mindcv_models.export.check import reload
from mindcv_models.layers import resize
from mindcv_models.models import semantic_fpn
from mindcv_models.models.semantic_fpn import SemanticHead
from mindcv_models.segmentation.export import AtImageSize, LabelsDifferError, export_segmenter, pixels_that_differ
from mindcv_models.training.drop_path import DropPathDraws
from tests.helpers import parity
from tests.helpers.networks import create, filled

COUNTS = {"litv2_s": 31_449_486, "litv2_m": 52_435_854, "litv2_b": 89_993_518}


@pytest.mark.parametrize("backbone", ["litv2_s", *(pytest.param(f"litv2_{v}", marks=pytest.mark.slow) for v in "mb")])
def test_names_and_shapes_are_the_official_ones(backbone):
    network = create("semantic_fpn", backbone=backbone, num_classes=150)
    assert sum(p.size for p in network.trainable_params()) == COUNTS[backbone]
    own = {name: list(network.parameters_dict()[key].shape) for key, name in torch_names(network).items()}
    own.update((name, list(value.shape)) for name, value in official_buffers(network).items())
    assert own == parity.manifest("litv2")[f"semantic_fpn_{backbone}"]
    assert network.no_weight_decay() == [] and not hasattr(network, "lr_scale")


def maps(side=8, channels=6):
    rng = np.random.default_rng(0)
    return tuple(ms.Tensor(rng.standard_normal((2, channels, -(-side // s), -(-side // s))).astype(np.float32))
                 for s in (1, 2, 4, 8))  # fmt: skip


def test_first_values():
    head = SemanticHead(50, 64, 32)
    weight = head.scale_heads[2][0].conv.weight.asnumpy()
    np.testing.assert_allclose(weight.std(), np.sqrt(2 / (9 * 32)), rtol=0.03)
    np.testing.assert_allclose(head.conv_seg.weight.asnumpy().std(), 0.01, rtol=0.06)
    assert not head.conv_seg.bias.asnumpy().any()
    assert [len(branch) for branch in head.scale_heads] == [1, 2, 4, 6]


def test_whole_channels_drop_out():
    """With only one class and weights of 1, what is left of the sum tells which channels were kept."""
    head = SemanticHead(1, 6, 64, drop_rate=0.25)
    draws = DropPathDraws.of(head)
    draws.fill(np.random.default_rng(1))
    head.dropout.set_train()
    kept = head.dropout(ms.Tensor(np.ones((128, 1, 2, 3), np.float32))).asnumpy()
    np.testing.assert_allclose(np.unique(kept), [0, 4 / 3], rtol=1e-6)
    assert (kept == kept[:, :, :1, :1]).all()
    assert abs((kept > 0).mean() - 0.75) < 0.15


def test_sizes_that_do_not_halve():
    """Branches whose doublings miss the size of the finest map are brought to it."""
    head = SemanticHead(4, 6, 8).set_train(False)
    assert head(maps(7)).shape == (2, 4, 7, 7)


def test_resizing_is_bilinear_between_centres():
    row = ms.Tensor(np.float32([[[[0, 4]]]]))
    np.testing.assert_allclose(resize(row, 1, 4).asnumpy(), [[[[0, 1, 3, 4]]]], rtol=1e-6)
    assert resize(row, 1, 2) is row


def test_what_cannot_be_built():
    with pytest.raises(InputError, match="needs at least 1"):
        mindcv_models.create_model("semantic_fpn", num_classes=0)
    with pytest.raises(InputError, match="unknown backbone"):
        mindcv_models.create_model("semantic_fpn", backbone="litv2_x", num_classes=3)


class Backbone(nn.Cell):
    """Four plain maps, so that a network compiles in seconds."""

    def __init__(self):
        super().__init__()
        self.out_channels = [4, 4, 6, 6]
        self.convs = nn.CellList([nn.Conv2d(3, c, s, s, pad_mode="valid") for c, s in zip(self.out_channels, STRIDES)])

    def construct(self, x):
        return tuple([conv(x) for conv in self.convs])


STRIDES = (4, 8, 16, 32)
PREPARATION = Preparation("semantic_fpn", (64, 96), 1.0, "squash", "bilinear", (120, 120, 120), (60, 60, 60), None)


@pytest.fixture(scope="module")
def network():
    with pytest.MonkeyPatch.context() as patch, backend.portable_form():
        patch.setattr(semantic_fpn, "create_backbone", lambda *_, **__: Backbone())
        network = mindcv_models.create_model("semantic_fpn", num_classes=5, channels=8, head_channels=8)
    return filled(network)


@pytest.mark.parametrize("suffix", ["onnx", "mindir"])
def test_exported_logits_and_classes(network, suffix, tmp_path):
    images = np.random.default_rng(0).standard_normal((3, 3, 64, 96)).astype(np.float32)
    with backend.portable_form():
        text = export_segmenter(network, tmp_path / f"logits.{suffix}", PREPARATION)
        assert "within" in text
        assert "classes" in export_segmenter(network, tmp_path / f"classes.{suffix}", PREPARATION, argmax=True)
        expected = AtImageSize(network)(ms.Tensor(images)).asnumpy()
    (logits,) = reload(tmp_path / f"logits.{suffix}")(images)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    (classes,) = reload(tmp_path / f"classes.{suffix}")(images[:2])
    assert classes.shape == (2, 64, 96) and classes.dtype.kind == "i"
    clear = np.sort(expected, 1)[:2, -1] - np.sort(expected, 1)[:2, -2] > 1e-3
    np.testing.assert_array_equal(classes[clear], expected[:2].argmax(1)[clear])
    assert clear.mean() > 0.99 and len(np.unique(classes)) > 1
    if suffix == "onnx":
        with pytest.raises(LabelsDifferError, match="below the largest"):
            pixels_that_differ(tmp_path / "classes.onnx", images, -expected, None)

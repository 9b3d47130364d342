"""Any model as a backbone: its maps, widths, strides and names."""

import mindcv
import mindspore as ms
import numpy as np
import pytest

import mindcv_models
from mindcv_models.errors import InputError
from mindcv_models.models.backbones import create_backbone
from tests.helpers import parity

SIZE = (64, 96)


pytestmark = pytest.mark.usefixtures("eager")


def images():
    return ms.Tensor(parity.images(1, *SIZE))


@pytest.mark.parametrize("name", ["fastvit_t8", "faster_vit_0_224", "litv2_s", "resnet18", "mobilenet_v2_035_128"])
def test_widths_and_strides_are_those_of_the_maps(name):
    network = create_backbone(name, (8, 16, 32)).set_train(False)
    maps = network(images())
    assert network.out_strides == [8, 16, 32]
    assert [tuple(m.shape[1:]) for m in maps] == [
        (channels, SIZE[0] // stride, SIZE[1] // stride) for channels, stride in zip(network.out_channels, (8, 16, 32))
    ]


def test_litv2_has_the_official_forms_and_the_window():
    network = create_backbone("litv2_s", (8, 16, 32), "detection", window_size=4)
    names = {p.name for p in network.get_parameters() if p.name.startswith("norm")}
    assert names == {f"norm{k}.{leaf}" for k in (1, 2, 3) for leaf in ("gamma", "beta")}
    assert network.layers[2].blocks[0].attn.window_size == 4
    names = {p.name for p in create_backbone("litv2_s", dense="segmentation").get_parameters()}
    assert "norm0.gamma" in names


@pytest.mark.parametrize(("name", "indices"), [("resnet18", [2, 3, 4]), ("mobilenet_v2_035_128", [6, 13, 18])])
def test_a_classifier_of_mindcvs_is_cut_and_keeps_its_names(name, indices):
    """The maps are those of MindCV's own feature extractor, the names those of its classifier."""
    classifier = mindcv.create_model(name, num_classes=3)
    network = create_backbone(name, (8, 16, 32)).set_train(False)
    names = [p.name for p in network.get_parameters()]
    assert names == [p.name for p in classifier.get_parameters()][: len(names)]
    reference = mindcv.create_model(name, features_only=True, out_indices=indices).set_train(False)
    values = [p.value() for p in reference.get_parameters()]
    for parameter, value in zip(network.get_parameters(), values, strict=True):
        parameter.set_data(value)
    for ours, theirs in zip(network(images()), reference(images()), strict=True):
        np.testing.assert_array_equal(ours.asnumpy(), theirs.asnumpy())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("litv2_x", {}, "unknown backbone 'litv2_x': did you mean litv2_"),
        ("retinanet", {}, "give an image classifier"),
        ("pvt_v2_b0", {}, "gives no feature maps"),
        ("fastvit_t8", {"strides": (8, 64)}, "strides 4, 8, 16, 32, but not of 64"),
    ],
)
def test_what_is_no_backbone_is_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        create_backbone(name, **options)


def test_an_option_that_the_backbone_lacks_is_refused():
    with pytest.raises(InputError, match=r"window_size.*Leave that option out"):
        mindcv_models.create_model("retinanet", backbone="fastvit_t8", window_size=4)

"""Parameters and multiply-accumulates against those measured on the official releases."""

import pytest

import mindcv_models
from mindcv_models.profile import Profile, profile

# Section 5 of FastViT's specification: millions of multiply-accumulates at 256 x 256, training and inference form.
FASTVIT = {
    "fastvit_t8": (690, 685),
    "fastvit_t12": (1398, 1391),
    "fastvit_s12": (1800, 1794),
    "fastvit_sa12": (1944, 1937),
    "fastvit_sa24": (3770, 3762),
    "fastvit_sa36": (5596, 5587),
    "fastvit_ma36": (7826, 7815),
}
# Section 2 of LITv2's, by variant, share of low-frequency heads and image size.
LITV2 = {
    ("litv2_s", 0.9, 224): Profile(27_844_000, 3_734_401_596),
    ("litv2_s", 0.0, 224): Profile(28_089_760, 3_965_462_076),
    ("litv2_s", 0.2, 224): Profile(27_844_000, 3_880_714_812),
    ("litv2_s", 0.4, 224): Profile(27_696_544, 3_815_235_132),
    ("litv2_s", 0.5, 224): Profile(27_647_392, 3_769_023_036),
    ("litv2_s", 0.7, 224): Profile(27_696_544, 3_742_078_524),
    ("litv2_s", 1.0, 224): Profile(28_089_760, 3_745_992_252),
    ("litv2_m", 0.9, 224): Profile(48_830_368, 7_479_237_180),
    ("litv2_b", 0.9, 224): Profile(86_520_704, 13_193_561_148),
    ("litv2_b_384", 0.9, 384): Profile(86_520_704, 39_709_486_528),
}


def cases(table, fast):
    return [pytest.param(key, marks=[pytest.mark.slow] * (key not in fast), id=str(key)) for key in table]


@pytest.mark.parametrize("name", cases(FASTVIT, ("fastvit_t8", "fastvit_sa12")))
def test_fastvit(name):
    network = mindcv_models.create_model(name)
    forms = [profile(form, 256, 256) for form in (network, mindcv_models.reparameterize(network))]
    assert tuple(round(form.flops / 1e6) for form in forms) == FASTVIT[name]
    assert network.training is False


@pytest.mark.parametrize("key", cases(LITV2, (("litv2_s", 0.9, 224), ("litv2_s", 0.2, 224))))
def test_litv2(key):
    name, alpha, size = key
    assert profile(mindcv_models.create_model(name, alpha=alpha), size, size) == LITV2[key]


def test_litv2_stage_by_stage():
    """Check values of section 11."""
    network = mindcv_models.create_model("litv2_s")
    sizes = (56, 28, 14, 7)
    blocks = [stage.blocks[0].flops(size, size) for stage, size in zip(network.layers, sizes)]
    assert blocks == [243_554_304, 237_382_656, 312_069_632, 352_084_992]
    merges = [stage.downsample.flops(size, size) for stage, size in zip(network.layers[:3], sizes)]
    assert merges == [61_725_888, 59_761_968, 58_781_772]


def test_any_model_of_mindcv():
    """ResNet-50 at 224: 4.09 G multiply-accumulates (He et al., CVPR 2016, print 3.8 for another stride)."""
    counted = profile(mindcv_models.create_model("resnet50"), 224, 224)
    assert counted.parameters == 25_557_032
    assert round(counted.flops / 1e7) == 409

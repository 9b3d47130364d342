"""Parameters and multiply-accumulates against those measured on the official releases."""

import pytest
from mindspore import nn, ops

import mindcv_models
from mindcv_models import backend
from mindcv_models.profile import Profile, count_operators, profile

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


@pytest.mark.process
@pytest.mark.parametrize("name", cases(FASTVIT, ("fastvit_t8", "fastvit_sa12")))
def test_fastvit(name):
    with backend.portable_form():
        network = mindcv_models.create_model(name).set_train(True)
        forms = [profile(form, 256, 256) for form in (network, mindcv_models.reparameterize(network))]
    assert tuple(round(form.flops / 1e6) for form in forms) == FASTVIT[name]
    assert network.training is True


@pytest.mark.process
@pytest.mark.parametrize("key", cases(LITV2, [key for key in LITV2 if key[0] == "litv2_s"]))
def test_litv2_as_its_authors_count(key):
    name, alpha, size = key
    network = mindcv_models.create_model(name, alpha=alpha)
    parameters = sum(p.size for p in network.trainable_params())
    assert Profile(parameters, network.flops(size, size)) == LITV2[key]


def test_litv2_by_operators():
    """The authors' count less what is no convolution or product, and with the 8 channels that an offset map has."""
    patches = 96 * 56**2  # the norm
    # Blocks of a stage, their width, tokens and norms; the bias of a depthwise convolution is on 4 times the width.
    stages = ((2, 96, 56**2, 1), (2, 192, 28**2, 1), (6, 384, 14**2, 2), (2, 768, 7**2, 2))
    blocks = sum(count * (norms + 4) * width * tokens for count, width, tokens, norms in stages)
    # Merging: 4 of 12 offset channels, biases of 12 and of twice the width, a norm.
    merges = sum((4 * 4 * width + 12 + 4 * width) * tokens // 4 for _, width, tokens, _ in stages[:3])
    tail = 8 * 96 * 56**2 // 16
    with backend.portable_form():
        counted = count_operators(mindcv_models.create_model("litv2_s"), (1, 3, 224, 224))
    assert sum(counted.values()) == 3_734_401_596 - patches - blocks - merges - tail


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


def test_primitives_are_counted_apart():
    class Net(nn.Cell):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 6, 3, stride=2, group=2, pad_mode="pad", padding=1)
            self.head = nn.Dense(6, 5)

        def construct(self, x):
            x = self.conv(x)  # (B, 6, 4, 4)
            x = x.reshape(x.shape[0], 6, 16)
            scores = ops.softmax(ops.matmul(x, x.swapaxes(1, 2)))  # (B, 6, 6)
            return self.head(ops.matmul(scores, x).mean(2))

    counted = count_operators(Net(), (3, 4, 8, 8))
    assert counted.pop("Conv2D") == 3 * 6 * 4 * 4 * (4 // 2) * 9
    assert sum(counted.values()) == 3 * (2 * 6 * 6 * 16 + 6 * 5)


@pytest.mark.parametrize(("transpose_a", "transpose_b"), [(False, True), (True, False)])
def test_a_product_sums_over_the_right_axis(transpose_a, transpose_b):
    class Product(nn.Cell):
        def __init__(self):
            super().__init__()
            self.product = ops.BatchMatMul(transpose_a, transpose_b)

        def construct(self, x):
            return self.product(x, x)

    summed, kept = (4, 7) if transpose_a else (7, 4)
    assert count_operators(Product(), (2, 3, 4, 7)) == {"BatchMatMul": 2 * 3 * kept * kept * summed}


def test_an_unknown_product_is_not_passed_over():
    class Volume(nn.Cell):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv3d(1, 1, 3)

        def construct(self, x):
            return self.conv(x.expand_dims(1))

    with pytest.raises(NotImplementedError, match="Conv3D"):
        count_operators(Volume(), (1, 4, 4, 4))

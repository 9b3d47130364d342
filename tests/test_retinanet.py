"""RetinaNet's parameters: their number, names and first values are the official ones."""

import numpy as np
import pytest
from mindspore.nn.utils import no_init_parameters

from mindcv_models.checkpoint.names import torch_names
from mindcv_models.errors import InputError
from mindcv_models.models.registry import create_model
from tests.helpers import parity

# Section 8 of the specification.
PARAMETERS = {"litv2_s": 38_014_252, "litv2_m": 59_000_620, "litv2_b": 97_139_852}


@pytest.mark.process
@pytest.mark.parametrize(
    "backbone", [b if b == "litv2_s" else pytest.param(b, marks=pytest.mark.slow) for b in PARAMETERS]
)
def test_parameters_are_as_many_and_have_the_names_of_the_official_ones(backbone):
    with no_init_parameters():
        network = create_model("retinanet", backbone=backbone, num_classes=80, window_size=4)
    assert sum(p.size for p in network.trainable_params()) == PARAMETERS[backbone]
    shapes = parity.manifest("litv2")[f"retinanet_{backbone}"]
    own = {name: list(network.parameters_dict()[p].shape) for p, name in torch_names(network).items()}
    assert own == {name: shape for name, shape in shapes.items() if not name.endswith("num_batches_tracked")}


def test_first_values():
    network = create_model("retinanet", backbone="resnet18", num_classes=3, channels=64, convs=1)
    values = {name: p.asnumpy() for name, p in network.parameters_dict().items() if name.startswith("bbox_head")}
    np.testing.assert_allclose(values.pop("bbox_head.retina_cls.bias"), -np.log(99), rtol=1e-6)
    assert not any(value.any() for name, value in values.items() if name.endswith("bias"))
    for name, value in values.items():
        if name.endswith("weight"):
            np.testing.assert_allclose(value.std(), 0.01, rtol=0.1)
    assert network.no_weight_decay() == []


@pytest.mark.parametrize("options", [{"num_classes": 0}, {"channels": 0}, {"anchor_scale": -1}])
def test_sizes_without_meaning_are_refused(options):
    with pytest.raises(InputError, match="must be above 0"):
        create_model("retinanet", backbone="resnet18", **options)

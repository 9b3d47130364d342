"""Fine-tuning from a checkpoint: another set of classes, another image size, in all three families."""

import numpy as np
import pytest
from mindspore import Tensor

from mindcv_models import create_model
from mindcv_models.checkpoint import save_checkpoint
from mindcv_models.classification.objective import build_objective
from mindcv_models.classification.options import TrainOptions
from mindcv_models.distributed import ONE_DEVICE
from mindcv_models.training import Schedule, build_network, build_step

MODELS = ["fastvit_t8", "faster_vit_0_224", "litv2_s"]


@pytest.fixture
def make(tmp_path):
    """A function from a model and options to them, and to the network that starts from a checkpoint for 10 classes."""

    def build(model, **changes):
        first = create_model(model, num_classes=10)
        save_checkpoint(first.get_parameters(), tmp_path / "first.ckpt")
        options = TrainOptions(
            model=model, num_classes=3, ckpt_path=str(tmp_path / "first.ckpt"), new_head=True, opt="adamw",
            warmup_epochs=0, **changes,
        )  # fmt: skip
        return first, options, build_network(options, ONE_DEVICE)

    return build


@pytest.mark.parametrize("model", MODELS)
def test_a_new_head_leaves_all_else_as_it_was_trained(make, model):
    first, _, network = make(model)
    before = {p.name: p.asnumpy() for p in first.get_parameters()}
    assert [p.name for p in network.get_parameters()] == list(before)
    for parameter in network.get_parameters():
        if parameter.name.startswith("head."):
            assert parameter.shape[0] == 3
        else:
            np.testing.assert_array_equal(parameter.asnumpy(), before[parameter.name])


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_a_step_at_another_size_moves_what_is_not_frozen(make, model):
    """The weights were made for no size, the models' own is 224 or 256; these images are not even square.

    They are large enough for FasterViT to have several windows, and so carrier tokens.
    """
    _, options, network = make(model, freeze=("patch_embed.*",), layer_decay=0.9)
    step = build_step(options, build_objective(options, network), Schedule(options, 1), ONE_DEVICE)
    before = {p.name: p.asnumpy().copy() for p in network.get_parameters()}
    images = np.random.RandomState(0).randn(2, 3, 160, 128).astype(np.float32)
    assert np.isfinite(float(step(Tensor(images), Tensor(np.array([0, 2], np.int32)))))
    still = {p.name for p in network.get_parameters() if np.array_equal(p.asnumpy(), before[p.name])}
    assert still == {name for name in before if name.startswith("patch_embed.")}

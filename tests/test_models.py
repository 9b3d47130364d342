"""Every property over the models of this project, eagerly and on small images.

The quick run takes shallow variants of each family; the exhaustive run takes every registered model as it is.
"""

import mindcv
import mindspore as ms
import numpy as np
import pytest
from mindcv.models.registry import get_pretrained_cfg, is_model
from mindcv.utils.amp import auto_mixed_precision
from mindspore.nn.utils import no_init_parameters

import mindcv_models
from mindcv_models.errors import InputError
from mindcv_models.models import config_of, fastvit
from mindcv_models.models.registry import ModelConfig
from tests.helpers import networks, parity

QUICK = ("fastvit_t8", "fastvit_sa12", "faster_vit_0_224", "litv2_s")
MODELS = [
    *(pytest.param((name, True), id=f"{name}, shallow") for name in QUICK),
    *(pytest.param((name, False), id=name, marks=pytest.mark.slow) for name in mindcv_models.list_models()),
]
every_model = pytest.mark.parametrize("name", MODELS, indirect=True)
pytestmark = pytest.mark.usefixtures("eager")
SIZE = 64


@pytest.fixture
def name(request, monkeypatch):
    """The name of a model, shallow if its parameter says so."""
    name, shallow = request.param
    if shallow:
        networks.make_shallow(monkeypatch)
    return name


def images(channels=3, size=SIZE):
    return ms.Tensor(np.tile(parity.images(2, size, size), (1, 2, 1, 1))[:, :channels])


def test_the_registry_is_mindcvs():
    names = mindcv_models.list_models()
    assert set(QUICK) <= set(names)
    assert all(is_model(name) for name in names)
    assert mindcv_models.list_models("fastvit_sa*") == ["fastvit_sa12", "fastvit_sa24", "fastvit_sa36"]
    network = mindcv.create_model("fastvit_t8", num_classes=10)
    assert network.head.weight.shape == (10, 768)


@every_model
def test_the_registry_says_how_to_evaluate_and_what_the_head_is(name):
    config = get_pretrained_cfg(name)
    assert len(config["input_size"]) == len(config["mean"]) == len(config["std"]) == 3
    assert config["num_classes"] in (1000, 21841)
    assert 0.8 < config["crop_pct"] <= 1
    network = mindcv_models.create_model(name, num_classes=3)
    assert network.parameters_dict()[f"{config['classifier']}.weight"].shape[0] == 3


@every_model
def test_classes_channels_and_evaluation(name):
    network = mindcv_models.create_model(name, num_classes=7, in_channels=4).set_train(False)
    x = images(4)
    logits = network(x).asnumpy()
    assert logits.shape == (2, 7)
    assert np.isfinite(logits).all()
    assert np.abs(logits[0] - logits[1]).max() > 0
    np.testing.assert_allclose(network(x[:1]).asnumpy(), logits[:1], rtol=0, atol=1e-5 * np.abs(logits).max())


@every_model
def test_no_classes_gives_the_pooled_features(name):
    network = mindcv_models.create_model(name, num_classes=0).set_train(False)
    headed = mindcv_models.create_model(name, num_classes=3)
    width = headed.parameters_dict()[f"{get_pretrained_cfg(name)['classifier']}.weight"].shape[1]
    assert network(images()).shape == (2, width)


@every_model
def test_every_parameter_learns(name):
    network = mindcv_models.create_model(name, num_classes=5, drop_path_rate=0.0).set_train()
    weights = network.trainable_params()
    gradients = ms.grad(lambda x: (network(x) ** 2).mean(), None, weights)(images(size=128))
    norms = {weight.name: np.linalg.norm(gradient.asnumpy()) for weight, gradient in zip(weights, gradients)}
    assert all(np.isfinite(norm) for norm in norms.values())
    assert not [name for name, norm in norms.items() if norm == 0]


@every_model
def test_drop_path_drops_in_training_only(name):
    network = mindcv_models.create_model(name, num_classes=5, drop_path_rate=0.9)
    for parameter in network.get_parameters():  # branches that matter, so that leaving one out shows
        if parameter.name.rsplit(".", 1)[-1].startswith(("gamma", "layer_scale")):
            parameter.set_data(ms.Tensor(np.ones(parameter.shape, np.float32)))
    x = images()
    evaluated = [network.set_train(False)(x).asnumpy() for _ in range(2)]
    np.testing.assert_array_equal(*evaluated)
    ms.set_seed(0)
    trained = [network.set_train()(x).asnumpy() for _ in range(2)]
    assert np.abs(trained[0] - trained[1]).max() > 1e-3 * np.abs(trained[0]).max()


@every_model
def test_features_have_the_widths_and_strides_they_say(name):
    network = mindcv_models.create_model(name, features_only=True, out_indices=[0, 2, 3]).set_train(False)
    maps = network(images())
    assert [m.shape[1] for m in maps] == list(network.out_channels)
    assert [SIZE // m.shape[2] for m in maps] == list(network.out_strides)
    assert all(np.isfinite(m.asnumpy()).all() for m in maps)


@every_model
def test_reparameterizing_changes_nothing_but_the_form(name):
    network = mindcv_models.create_model(name, num_classes=5)
    rng = np.random.RandomState(0)
    for parameter in network.get_parameters():  # as after training: no statistic is what it began as
        noise = rng.uniform(0.5, 1.5, parameter.shape).astype(np.float32)
        parameter.set_data(ms.Tensor(noise if "moving_" in parameter.name else parameter.asnumpy() * noise))
    before = {p.name: p.asnumpy().copy() for p in network.get_parameters()}
    network.set_train()
    fused = mindcv_models.reparameterize(network)
    assert network.training
    assert all(np.array_equal(p.asnumpy(), before[p.name]) for p in network.get_parameters())
    logits = network.set_train(False)(images()).asnumpy()
    np.testing.assert_allclose(fused(images()).asnumpy(), logits, rtol=0, atol=1e-5 * np.abs(logits).max())
    again = mindcv_models.reparameterize(fused)
    assert {p.name: p.shape for p in again.get_parameters()} == {p.name: p.shape for p in fused.get_parameters()}
    assert all(np.array_equal(a.asnumpy(), b.asnumpy()) for a, b in zip(again.get_parameters(), fused.get_parameters()))
    kept = {id(p) for p in network.get_parameters()}
    inplace = mindcv_models.reparameterize(network, inplace=True)
    for a, b in zip(inplace.get_parameters(), fused.get_parameters()):
        assert a.name == b.name and np.array_equal(a.asnumpy(), b.asnumpy())
        assert id(a) in kept or a.name not in before  # only what is fused is new


@pytest.mark.process
@pytest.mark.parametrize(
    "level", [pytest.param("O1", marks=pytest.mark.slow), "O2", pytest.param("O3", marks=pytest.mark.slow)]
)
@every_model
def test_mixed_precision_stays_near_float32(name, level):
    network = mindcv_models.create_model(name, num_classes=5, drop_path_rate=0.0).set_train(False)
    exact = network(images()).asnumpy()
    auto_mixed_precision(network, level)
    mixed = network(images()).asnumpy()
    np.testing.assert_allclose(mixed, exact, rtol=0, atol=2e-2 * np.abs(exact).max())
    weights = network.set_train().trainable_params()
    gradients = ms.grad(lambda x: (network(x).astype(ms.float32) ** 2).mean(), None, weights)(images())
    assert all(np.isfinite(gradient.asnumpy()).all() for gradient in gradients)


@every_model
def test_initialisation_is_the_same_for_the_same_seed(name):
    def build():
        ms.set_seed(3)
        network = mindcv_models.create_model(name, num_classes=2)
        return np.concatenate([p.asnumpy().reshape(-1)[:50] for p in network.get_parameters()])

    np.testing.assert_array_equal(build(), build())


def test_wrong_names_and_options_are_refused():
    with pytest.raises(InputError, match=r"unknown model 'fastvit_t9': did you mean fastvit_t8\?"):
        mindcv_models.create_model("fastvit_t9")
    with pytest.raises(InputError, match="Leave that option out"):
        mindcv_models.create_model("fastvit_t8", window=7)
    with pytest.raises(InputError, match=r"four feature maps: choose from 0, 1, 2 and 3"):
        mindcv_models.create_model("fastvit_t8", features_only=True, out_indices=[4])


@pytest.mark.parametrize("name", ["fastvit_t8", "faster_vit_0_224", "litv2_s", "retinanet"])
def test_mindcvs_own_function_names_the_one_that_has_weights(name):
    with pytest.raises(InputError, match=rf"mindcv_models.create_model\('{name}', pretrained=True\)"):
        mindcv.create_model(name, pretrained=True)


@pytest.mark.parametrize("name", [name for name in QUICK if name != "fastvit_sa12"])
def test_a_new_classifier_is_that_of_a_new_network(name):
    with no_init_parameters():
        network, five = (mindcv_models.create_model(name, num_classes=n) for n in (3, 5))
        network.reset_classifier(5)
    assert [(p.name, p.shape) for p in network.get_parameters()] == [(p.name, p.shape) for p in five.get_parameters()]
    network.reset_classifier(0)
    assert not [p.name for p in network.get_parameters() if p.name.startswith("head.")]


def test_a_compiled_network_heeds_its_new_classifier():
    ms.set_context(mode=ms.GRAPH_MODE)
    network = fastvit.FastViT(fastvit.Variant((1, 1, 1, 1), (16, 16, 16, 16)), num_classes=3).set_train(False)
    x = images(size=32)
    assert network(x).shape == (2, 3)
    network.reset_classifier(0)
    features = network(x).asnumpy()
    network.reset_classifier(5)
    head = network.head
    expected = features @ head.weight.asnumpy().T + head.bias.asnumpy()
    np.testing.assert_allclose(network(x).asnumpy(), expected, atol=1e-5)


def test_the_first_scale_of_fastvits_branches_can_be_set():
    with no_init_parameters():
        networks = [
            mindcv_models.create_model("fastvit_t8", layer_scale_init=0.25),
            mindcv_models.create_model("retinanet", backbone="fastvit_t8", layer_scale_init=0.25),
            mindcv_models.create_model("fastvit_t8"),
        ]
    for network, expected in zip(networks, (0.25, 0.25, 1e-5)):
        scales = [p for p in network.get_parameters() if p.name.endswith("layer_scale")]
        assert len(scales) == 20
        assert all((p.asnumpy() == np.float32(expected)).all() for p in scales)


def test_what_a_model_says_of_itself():
    own = config_of("faster_vit_4_21k_384")
    assert (own.task, own.input_size, own.classifier) == ("classification", (3, 384, 384), ("head",))
    assert (own.crop_pct, own.crop_mode, own.interpolation) == (1.0, "squash", "bicubic")
    assert own.mean == (0.485, 0.456, 0.406)
    outputs = {name: (c.task, c.outputs_per_class, c.background) for name, c in
               ((name, config_of(name)) for name in ("litv2_s", "retinanet", "mask_rcnn", "semantic_fpn"))}  # fmt: skip
    assert outputs == {
        "litv2_s": ("classification", 1, False), "retinanet": ("detection", 9, False),
        "mask_rcnn": ("detection", 1, True), "semantic_fpn": ("segmentation", 1, False),
    }  # fmt: skip
    assert config_of("resnet18").classifier == ("classifier",)
    assert config_of("unheard_of") == ModelConfig()


def test_options_that_cannot_be_meant_are_one_line():
    with pytest.raises(InputError, match=r"litv2_s does not take \{'alpha': '2e-1'\} \('<=' not supported"):
        mindcv_models.create_model("litv2_s", alpha="2e-1")
    with pytest.raises(InputError, match=r"checkpoint_path: load checkpoints of every kind with"):
        mindcv_models.create_model("litv2_s", checkpoint_path="x.ckpt")


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("litv2_s", {"window_size": 2.5}, "HiLo: window_size=2.5 is no side of a window; give a whole number from 1."),
        ("litv2_s", {"drop_rate": 5}, "litv2_s does not take {'drop_rate': 5} (For 'Dropout'"),
        ("faster_vit_0_any_res", {"dim": -64}, "does not take {'dim': -64} (For 'LoopConv2d', the 'out_channels'"),
        ("retinanet", {"backbone": "litv2_s", "channels": 2.5}, "retinanet does not take {'backbone': 'litv2_s', 'ch"),
        ("resnet18", {"groups": 2}, "resnet18 does not take {'groups': 2} (BasicBlock only supports groups=1)"),
    ],
)
def test_values_that_a_model_refuses_are_one_line(model, options, message):
    with pytest.raises(InputError) as error, no_init_parameters():
        mindcv_models.create_model(model, **options)
    assert message in str(error.value)

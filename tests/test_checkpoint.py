"""Loading strictly, saving safely."""

import zlib
from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, ParameterTuple, Tensor, nn
from safetensors.numpy import save_file

import mindcv_models
from mindcv_models.checkpoint import load_average, load_backbone, load_torch_checkpoint, load_weights, save_checkpoint
from mindcv_models.checkpoint.mindspore_file import ckpt_checksum, ckpt_header
from mindcv_models.checkpoint.names import official_names, timm_names, torch_names
from mindcv_models.errors import InputError
from mindcv_models.models import litv2
from tests.helpers import parity

SHAPES = parity.manifest("fastvit")


def network(name="fastvit_t8", **options):
    return mindcv_models.create_model(name, **options)


def values(net):
    return {p.name: p.asnumpy().copy() for p in net.get_parameters()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "fastvit_t8.safetensors"
    save_file(parity.state_dict(SHAPES["t8"]["train"]), str(path))
    return str(path)


def test_a_safetensors_checkpoint_fills_every_parameter(checkpoint):
    net = network()
    report = load_torch_checkpoint(net, checkpoint)
    names = torch_names(net)
    assert report.loaded == len(names)
    assert all(name.endswith("num_batches_tracked") for name in report.dropped)
    assert report.loaded + len(report.dropped) == len(SHAPES["t8"]["train"])
    for name, value in values(net).items():
        np.testing.assert_array_equal(value, parity.parameter(names[name], value.shape))


@pytest.mark.parametrize("variant", ["t8", "t12", "s12", "sa12", "sa24", "sa36", "ma36"])
@pytest.mark.parametrize("form", ["train", "fused"])
def test_timm_names_are_the_official_ones(variant, form):
    official, timm = SHAPES[variant][form], SHAPES[f"timm_{variant}"][form]
    renamed = {official: timm[name] for name, official in official_names(timm).items()}
    assert renamed == official
    names = timm_names(official)
    assert {names[name]: shape for name, shape in official.items()} == timm


def test_timm_has_no_names_for_other_families():
    with pytest.raises(InputError, match=r"timm's names are known for FastViT only: leave --names out"):
        timm_names(torch_names(shallow(False)).values())


def refused(net, tensors, tmp_path):
    before = values(net)
    path = tmp_path / "bad.safetensors"
    save_file(tensors, str(path))
    with pytest.raises(InputError) as error:
        load_torch_checkpoint(net, str(path))
    assert all(np.array_equal(value, before[name]) for name, value in values(net).items())
    return str(error.value)


def test_names_and_shapes_that_do_not_fit_are_named_and_nothing_is_changed(tmp_path):
    net = network()
    tensors = parity.state_dict(SHAPES["t8"]["train"])
    missing = dict(tensors)
    del missing["network.0.0.layer_scale"]
    assert "network.0.0.layer_scale" in refused(net, missing, tmp_path)
    assert "stray.weight" in refused(net, {**tensors, "stray.weight": np.zeros(1, np.float32)}, tmp_path)
    wrong = {**tensors, "head.weight": np.zeros((10, 768), np.float32)}
    assert "does not fit the model: head.weight is (10, 768) there, but must be (1000, 768)" in refused(
        net, wrong, tmp_path
    )
    fused = parity.state_dict(SHAPES["t8"]["fused"])
    assert "load it into reparameterize(network)" in refused(net, fused, tmp_path)
    assert "reparameterize the network after" in refused(mindcv_models.reparameterize(net), tensors, tmp_path)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, checkpoint):
    with pytest.raises(InputError, match="no checkpoint at"):
        load_torch_checkpoint(network(), str(tmp_path / "absent.safetensors"))
    cut = tmp_path / "cut.safetensors"
    with open(checkpoint, "rb") as whole:
        cut.write_bytes(whole.read(100_000))
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_torch_checkpoint(network(), str(cut))


def test_own_checkpoints_come_back_bit_for_bit(tmp_path, checkpoint):
    first = network()
    load_weights(first, checkpoint)
    path = tmp_path / "own.ckpt"
    save_checkpoint(first.get_parameters(), path)
    second = network()
    load_weights(second, str(path))
    before = values(first)
    assert all(np.array_equal(value, before[name]) for name, value in values(second).items())


def test_averages_are_demanded_declined_or_taken_where_they_are(tmp_path):
    net = network(num_classes=3)
    averages = [Parameter(Tensor(p.asnumpy() + 1), name=f"ema.{p.name}") for p in net.get_parameters()]
    save_checkpoint([*net.get_parameters(), *averages], tmp_path / "both.ckpt")
    save_checkpoint(net.get_parameters(), tmp_path / "plain.ckpt")
    before = values(net)
    with pytest.raises(InputError, match=r"plain.ckpt has no moving averages: leave --use_ema out"):
        load_weights(net, str(tmp_path / "plain.ckpt"), use_ema=True)
    for name, use_ema, added in (("both", True, 1), ("both", False, 0), ("both", None, 1), ("plain", None, 0)):
        words = load_weights(net, str(tmp_path / f"{name}.ckpt"), use_ema)
        assert ("moving averages" in words) == (added == 1)
        assert all(np.array_equal(value, before[n] + added) for n, value in values(net).items())
    load_average(net, [tmp_path / "both.ckpt"] * 2, use_ema=True)
    assert all(np.array_equal(value, before[n] + 1) for n, value in values(net).items())


def test_a_checkpoint_of_another_model_is_refused_unless_only_the_head_differs(tmp_path):
    path = str(tmp_path / "ten.ckpt")
    ten = network(num_classes=10)
    save_checkpoint(ten.get_parameters(), tmp_path / "ten.ckpt")
    with pytest.raises(InputError, match=r"does not fit the model: .*num_classes"):
        load_weights(network("fastvit_t12", num_classes=10), path)
    four = network(num_classes=4)
    with pytest.raises(InputError, match=r"head\.weight is \(10, 768\) there, but must be \(4, 768\).*new_head True"):
        load_weights(four, path)
    head = four.head.weight.asnumpy().copy()
    load_weights(four, path, without="head")
    np.testing.assert_array_equal(four.head.weight.asnumpy(), head)
    np.testing.assert_array_equal(
        four.patch_embed[0].rbr_conv[0].conv.weight.asnumpy(), ten.patch_embed[0].rbr_conv[0].conv.weight.asnumpy()
    )


def test_saving_never_leaves_half_a_file(tmp_path, monkeypatch):
    path = tmp_path / "model.ckpt"
    save_checkpoint([Parameter(Tensor([1.0]), name="w")], path)
    good = path.read_bytes()

    def fail(save_obj, name, **options):
        with open(name, "wb") as file:
            file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(ms, "save_checkpoint", fail)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint([Parameter(Tensor([2.0]), name="w")], path)
    assert path.read_bytes() == good
    assert [p.name for p in tmp_path.iterdir()] == ["model.ckpt"]


def test_a_truncated_own_checkpoint_is_refused(tmp_path):
    net = network(num_classes=3)
    save_checkpoint(net.get_parameters(), tmp_path / "whole.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "whole.ckpt").read_bytes()[:100_000])
    with pytest.raises(InputError, match=r"not a complete MindSpore checkpoint|does not fit"):
        load_weights(net, str(tmp_path / "cut.ckpt"))


class Types(nn.Cell):
    """A parameter of each type that weights have, one of them a scalar."""

    def __init__(self):
        super().__init__()
        kinds = (ms.float32, ms.float16, ms.bfloat16, ms.float64, ms.int32, ms.int64, ms.bool_)
        self.several = ParameterTuple(Parameter(Tensor([[0, 1, 2]], kind), name=str(kind)) for kind in kinds)
        self.scalar = Parameter(Tensor(0.1, ms.float32), name="scalar")


@pytest.mark.parametrize("crc_check", [False, True])
def test_what_mindspore_saves_comes_back_bit_for_bit(tmp_path, crc_check):
    first, second = Types(), Types()
    ms.save_checkpoint(first, str(tmp_path / "net.ckpt"), crc_check=crc_check)
    for parameter in second.get_parameters():
        parameter.set_data(Tensor(np.ones(parameter.shape), parameter.dtype))
    assert load_weights(second, str(tmp_path / "net.ckpt")).startswith("8 parameters")
    for name, parameter in second.parameters_dict().items():
        saved = first.parameters_dict()[name]
        assert parameter.dtype == saved.dtype
        assert parameter.get_bytes() == saved.get_bytes()


@pytest.mark.parametrize("checksum", [False, True])
def test_a_damaged_own_checkpoint_is_refused_in_one_line(tmp_path, checksum):
    """Without a checksum, as older files are, damage of values alone cannot be seen."""
    save_checkpoint(Types().get_parameters(), tmp_path / "net.ckpt")
    whole, path, net = (tmp_path / "net.ckpt").read_bytes(), tmp_path / "damaged.ckpt", Types()
    without = whole[: -len(ckpt_checksum(0))]
    assert whole[len(without) :] == ckpt_checksum(zlib.crc32(without))
    whole = whole if checksum else without
    flipped = [whole[:i] + bytes([byte ^ 1 << i % 8]) + whole[i + 1 :] for i, byte in enumerate(whole)]
    damaged = [*flipped, *(whole[:size] for size in range(len(whole)) if size != len(without))]
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            load_weights(net, str(path))
        except InputError as error:
            refused += 1
            assert str(path) in str(error)
            assert "\n" not in str(error)
    values = sum(len(p.get_bytes()) for p in net.get_parameters())
    assert refused >= len(damaged) - (0 if checksum else values + 8)
    path.write_bytes(without)
    assert load_weights(net, str(path)).startswith("8 parameters")


def test_a_checkpoint_with_a_text_in_it_does_not_fit(tmp_path):
    ms.save_checkpoint(Types(), str(tmp_path / "net.ckpt"), append_dict={"note": "words"})
    with pytest.raises(InputError, match="note is str, not a tensor of numbers"):
        load_weights(Types(), str(tmp_path / "net.ckpt"))


def own_file(parameters):
    """Parameters as a ``.ckpt`` file; a name, its sides, and the bytes."""
    return b"".join(ckpt_header(name, sides, "float32", len(data)) + data for name, sides, data in parameters)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ([("w", (1,) * 100_000, b"1234")], "w has more than 32 dimensions"),
        ([(f"w{n}", (1,), b"1234") for n in range(100_001)], "more than 100,000 parameters"),
        ([("w\x1b[31m", (1,), b"1234")], "a name that no parameter has"),
        ([("w" * 5000, (1,), b"1234")], "a name of more than 4096 bytes"),
        ([("w", (1 << 40, 1 << 40), b"1234")], "a tensor that exceeds its storage"),
    ],
)
def test_limits_of_an_own_checkpoint_come_before_its_contents(tmp_path, parameters, message):
    (tmp_path / "net.ckpt").write_bytes(own_file(parameters))
    with pytest.raises(InputError) as error:
        load_weights(nn.Dense(1, 1), str(tmp_path / "net.ckpt"))
    assert message in str(error.value)
    assert "\x1b" not in str(error.value)
    assert len(str(error.value)) < 400


def test_a_checksum_that_does_not_match_is_refused(tmp_path):
    path = tmp_path / "net.ckpt"
    ms.save_checkpoint(Types(), str(path), crc_check=True)
    whole = bytearray(path.read_bytes())
    whole[-30] ^= 1
    path.chmod(0o644)
    path.write_bytes(whole)
    with pytest.raises(InputError, match=r"net\.ckpt is not a complete MindSpore checkpoint \(its checksum does not"):
        load_weights(Types(), str(path))


# Where the network's names lie in a file, and backbones filled from classifiers.


def shallow(features=True, **options):
    """A LITv2 of a block a stage and width 32, without weights of its own: its backbone, or the classifier."""
    variant = replace(litv2.VARIANTS["litv2_s"], dim=32, depths=(1, 1, 1, 1))
    return litv2.LITv2Features(variant, **options) if features else litv2.LITv2(variant, num_classes=3)


class Detector(nn.Cell):
    """A backbone, and a head that no classifier has."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.bbox_head = nn.Dense(2, 2)


def stand_in(net, prefix=""):
    """A value for every parameter, by PyTorch name."""
    shapes = {p.name: p.shape for p in net.get_parameters()}
    return {prefix + name: parity.parameter(name, shapes[own]) for own, name in torch_names(net).items()}


def assert_filled(net, skip=()):
    names = torch_names(net)
    for parameter in net.get_parameters():
        if not names[parameter.name].startswith(skip):
            np.testing.assert_array_equal(parameter.asnumpy(), parity.parameter(names[parameter.name], parameter.shape))


@pytest.mark.parametrize("prefix", ["", "image_encoder.model.", "encoder.", "a.b.c.d."])
def test_a_network_is_found_under_any_prefix(tmp_path, prefix):
    path = str(tmp_path / "clip.safetensors")
    others = {"text_encoder.head.weight": np.zeros((5, 2), np.float32)} if prefix else {}
    save_file({**stand_in(shallow(False), prefix), **others}, path)
    net = shallow(False)
    report = load_torch_checkpoint(net, path)
    assert report.other_parts == tuple(others)
    assert report.fresh == ()
    assert_filled(net)


def test_a_network_that_is_there_twice_is_refused(tmp_path):
    save_file(
        {**stand_in(shallow(False), "student."), **stand_in(shallow(False), "teacher.")}, str(tmp_path / "two.st")
    )
    with pytest.raises(InputError, match=r"two\.st holds this network more than once, under student\. and teacher\."):
        load_torch_checkpoint(shallow(False), str(tmp_path / "two.st"))
    other = shallow(False)
    other.head = nn.Dense(other.head.in_channels, 7)  # another number of classes than in the file
    with pytest.raises(InputError, match=r"more than once, under student\. and teacher\."):
        load_torch_checkpoint(other, str(tmp_path / "two.st"), without="head")


def test_own_checkpoints_too_are_found_under_a_prefix(tmp_path):
    detector = Detector(shallow(dense="detection"))
    save_checkpoint(detector.get_parameters(), tmp_path / "detector.ckpt")
    backbone = shallow(dense="detection")
    words = load_weights(backbone, str(tmp_path / "detector.ckpt"))
    assert "2 entries of other parts left out: bbox_head.bias, bbox_head.weight" in words
    for name, parameter in backbone.parameters_dict().items():
        np.testing.assert_array_equal(parameter.asnumpy(), detector.parameters_dict()[f"backbone.{name}"].asnumpy())


@pytest.mark.parametrize("form", ["torch", "own"])
@pytest.mark.parametrize(("dense", "norms"), [("detection", "123"), ("segmentation", "0123"), (None, "")])
def test_a_backbone_is_filled_from_a_classifier_but_for_its_output_norms(tmp_path, form, dense, norms):
    classifier = shallow(False)
    path = str(tmp_path / f"classifier.{'safetensors' if form == 'torch' else 'ckpt'}")
    save_file(stand_in(classifier), str(tmp_path / "classifier.safetensors"))
    load_weights(classifier, str(tmp_path / "classifier.safetensors"))
    save_checkpoint(classifier.get_parameters(), tmp_path / "classifier.ckpt")
    detector = Detector(shallow(dense=dense))
    report = load_backbone(detector.backbone, path)
    leaves = ("bias", "weight") if form == "torch" else ("beta", "gamma")
    assert report.classifier == ("head.bias", "head.weight", *(f"norm.{leaf}" for leaf in leaves))
    assert sorted(report.fresh) == sorted(f"backbone.norm{k}.{leaf}" for k in norms for leaf in ("beta", "gamma"))
    assert report.other_parts == ()
    assert_filled(detector.backbone, tuple(f"norm{k}." for k in norms) or ("none",))
    for k in norms:
        norm = getattr(detector.backbone, f"norm{k}")
        assert norm.gamma.asnumpy().tolist() == [1] * norm.gamma.size
        assert norm.beta.asnumpy().tolist() == [0] * norm.beta.size


def test_a_backbone_is_filled_from_a_detector_with_its_norms(tmp_path):
    detector = Detector(shallow(dense="detection"))
    save_file({**stand_in(detector.backbone, "backbone."), "neck.w": np.zeros(1, np.float32)}, str(tmp_path / "d.st"))
    report = load_backbone(detector.backbone, str(tmp_path / "d.st"))
    assert (report.fresh, report.classifier, report.other_parts) == ((), (), ("neck.w",))
    assert_filled(detector.backbone)


def test_a_backbone_is_filled_strictly(tmp_path):
    tensors = stand_in(shallow(False))
    backbone = Detector(shallow(dense="detection")).backbone
    with pytest.raises(InputError, match=r"no checkpoint at .*/a\.ckpt: train it first, as the recipe's header says"):
        load_backbone(backbone, str(tmp_path / "a.ckpt"))
    before = values(backbone)

    def refused(changed, message):
        save_file(changed, str(tmp_path / "bad.st"))
        with pytest.raises(InputError, match=message):
            load_backbone(backbone, str(tmp_path / "bad.st"))
        assert all(np.array_equal(value, before[name]) for name, value in values(backbone).items())

    lacking = {name: value for name, value in tensors.items() if name != "layers.1.blocks.0.norm2.bias"}
    refused(lacking, r"it has no layers\.1\.blocks\.0\.norm2\.bias;")
    refused({**tensors, "layers.1.blocks.1.w": np.zeros(1, np.float32)}, r"the model has no layers\.1\.blocks\.1\.w;")
    name = "patch_embed.proj.bias"
    refused({**tensors, name: np.zeros(31, np.float32)}, rf"{name} is \(31,\) there, but must be \(32,\)")
    refused({name: value for name, value in tensors.items() if "patch_embed" not in name}, r"it has no patch_embed")


def test_a_backbone_takes_timms_names(tmp_path):
    save_file(parity.state_dict(SHAPES["timm_t8"]["train"]), str(tmp_path / "timm.safetensors"))
    backbone = network(features_only=True, fork_feat=True)
    report = load_backbone(backbone, str(tmp_path / "timm.safetensors"))
    assert {name.partition(".")[0] for name in report.classifier} == {"final_conv", "head"}
    assert len(report.fresh) == 4 * 4
    given = parity.parameter("stages.1.blocks.0.mlp.fc1.weight", (288, 96, 1, 1))
    np.testing.assert_array_equal(backbone.network[2][0].convffn.fc1.weight.asnumpy(), given)

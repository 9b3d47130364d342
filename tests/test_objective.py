"""Distillation and MESA against NumPy, and what a teacher must not do."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from mindcv_models import create_model
from mindcv_models.checkpoint import save_checkpoint
from mindcv_models.classification.objective import (
    ClassificationObjective,
    Distillation,
    Mesa,
    Teacher,
    build_objective,
    build_teacher,
)
from mindcv_models.classification.options import TrainOptions
from mindcv_models.distributed import ONE_DEVICE
from mindcv_models.errors import InputError
from mindcv_models.options import parse
from mindcv_models.training import Schedule, TrainStep, build_network, build_step
from tests.helpers import tiny  # noqa: F401, it registers the network
from tests.helpers.networks import RATE, Linear, data

LABELS = np.array([0, 1, 1, 0], np.int32)


class Classifier(Linear):
    """``x @ w`` with a normalisation and a dropout, so that the mode of the cell can be told from its output."""

    def __init__(self, scale=1.0):
        super().__init__(scale)
        self.drop = nn.Dropout(p=0.9)

    def construct(self, x):
        return super().construct(self.drop(x))


def log_softmax(x):
    x = x - x.max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def kl(teacher, student, temperature):
    p, q = log_softmax(teacher / temperature), log_softmax(student / temperature)
    return np.exp(p) * (p - q)


def cross_entropy(logits, labels):
    return -log_softmax(logits)[np.arange(len(labels)), labels].mean()


def student_and_teacher():
    student, teacher = Linear(), Classifier(-2.0)
    x, _ = data()
    return student, teacher, x, x @ student.w.asnumpy(), x @ teacher.w.asnumpy()


def step_with(student, *terms):
    objective = ClassificationObjective(student, nn.CrossEntropyLoss(), terms)
    return TrainStep(objective, nn.SGD(student.trainable_params(), learning_rate=RATE))


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE])
def test_distillation_follows_its_formula_and_leaves_the_teacher_alone(kind, mode):
    ms.set_context(mode=mode)
    student, network, x, logits, predictions = student_and_teacher()
    teacher = Teacher(network)
    before = network.w.asnumpy().copy()
    loss = float(step_with(student, Distillation(teacher, kind, 0.3, 2.0))(Tensor(x), Tensor(LABELS)))
    own = cross_entropy(logits, LABELS)
    if kind == "hard":
        expected = 0.7 * own + 0.3 * cross_entropy(logits, predictions.argmax(1))
    else:
        expected = 0.7 * own + 0.3 * 4 * kl(predictions, logits, 2.0).sum() / logits.size
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_array_equal(network.w.asnumpy(), before)


def test_soft_distillation_gives_the_gradient_of_its_formula():
    student, network, x, logits, predictions = student_and_teacher()
    w = student.w.asnumpy().copy()
    step_with(student, Distillation(Teacher(network), "soft", 1.0, 2.0))(Tensor(x), Tensor(LABELS))
    # d KL / d logits = (softmax(student / tau) - softmax(teacher / tau)) / tau
    gap = np.exp(log_softmax(logits / 2)) - np.exp(log_softmax(predictions / 2))
    expected = w - RATE * x.T @ (4 * gap / 2 / logits.size)
    np.testing.assert_allclose(student.w.asnumpy(), expected, rtol=1e-5, atol=1e-7)


def test_mesa_starts_after_its_share_of_the_epochs_and_keeps_the_weights():
    student, network, x, logits, predictions = student_and_teacher()
    mesa = Mesa(Teacher(network, "ema."), 0.1, 0.25)
    step = step_with(student, mesa)
    own = cross_entropy(logits, LABELS)
    start = student.w.asnumpy().copy()
    for progress, active in ((0.0, False), (0.25, False), (0.26, True), (0.5, True)):
        student.w.set_data(Tensor(start))
        assert step.start_epoch(progress) == (progress == 0.26)
        expected = own + active * 0.1 * 50 * kl(predictions, logits, 3.0).sum(1).mean()
        np.testing.assert_allclose(float(step(Tensor(x), Tensor(LABELS))), expected, rtol=1e-5)


def test_a_teachers_parameters_are_its_own():
    student, network, *_ = student_and_teacher()
    step = step_with(student, Distillation(Teacher(network), "hard", 0.5, 1.0))
    assert [p.name for p in step.weights] == ["w"]
    assert [p.name for p in network.get_parameters()] == ["teacher.w"]
    assert not network.trainable_params()
    step.set_train()
    assert step.training and student.training
    assert not network.training and not network.drop.training


def bce(logits, targets):
    return (np.maximum(logits, 0) - logits * targets + np.log1p(np.exp(-np.abs(logits)))).mean()


@pytest.mark.parametrize("loss", ["CE", "BCE"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("mixed", [False, True])
def test_losses_follow_their_formula(loss, smoothing, mixed):
    """``mixed`` labels are what mixup makes: two classes that share one image."""
    student, _, x, logits, _ = student_and_teacher()
    targets = np.eye(2)[LABELS]
    if mixed:
        targets = 0.7 * targets + 0.3 * targets[::-1]
    smooth = targets * (1 - smoothing) + smoothing / 2
    expected = bce(logits, smooth) if loss == "BCE" else -(smooth * log_softmax(logits)).sum(1).mean()
    objective = build_objective(TrainOptions(loss=loss, label_smoothing=smoothing), student)
    labels = targets.astype(np.float32) if mixed else LABELS
    np.testing.assert_allclose(float(objective(Tensor(x), Tensor(labels))), expected, rtol=1e-5)


@pytest.fixture
def teacher_path(tmp_path):
    """Weights of a small teacher that knows 10 classes."""
    path = tmp_path / "teacher.ckpt"
    save_checkpoint(create_model("tiny", num_classes=10).get_parameters(), path)
    return str(path)


def distilling(path, **changes):
    small = {"num_classes": 10, "teacher_model": "tiny", "teacher_path": path, "distillation_type": "hard"}
    return TrainOptions(**{**small, **changes})


def test_the_teacher_has_the_weights_of_its_file(teacher_path):
    teacher = build_teacher(distilling(teacher_path))
    saved = ms.load_checkpoint(teacher_path)
    parameters = list(teacher.get_parameters())
    assert {p.name for p in parameters} == {f"teacher.{name}" for name in saved}
    for parameter in parameters:
        np.testing.assert_array_equal(parameter.asnumpy(), saved[parameter.name.removeprefix("teacher.")].asnumpy())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 7}, "the teacher tiny has to know the student's 7 classes: .* must be"),
        ({"teacher_path": "nowhere.ckpt"}, "no checkpoint at nowhere.ckpt: set teacher_path to the weights of tiny"),
        ({"teacher_model": "regnety_160"}, "unknown model 'regnety_160': did you mean regnet_y_"),
        ({"teacher_kwargs": {"depht": 3}}, "tiny: .*depht"),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused(teacher_path, changes, message):
    with pytest.raises(InputError, match=message):
        build_teacher(distilling(teacher_path, **changes))


def test_a_step_from_options_keeps_teacher_and_average_out_of_what_learns(teacher_path):
    """Distillation and MESA together, from options: one step, then MESA starts over the same parameters."""
    options = distilling(
        teacher_path, model="tiny", ema=True, ema_decay=0.5, ema_ramp=False, mesa=0.1, opt="adamw",
        epoch_size=4,
    )  # fmt: skip
    network = build_network(options, ONE_DEVICE)
    step = build_step(options, build_objective(options, network), Schedule(options, 1), ONE_DEVICE)
    own = [p.name for p in network.get_parameters()]
    assert {p.name for p in step.weights} == {p.name for p in network.trainable_params()}
    assert [p.name for p in step.ema.averages] == [f"ema.{name}" for name in own]
    for average, weight in zip(step.ema.averages, network.get_parameters()):
        np.testing.assert_array_equal(average.asnumpy(), weight.asnumpy())
    x, y = Tensor(np.random.RandomState(0).randn(2, 3, 32, 32), ms.float32), Tensor([1, 2], ms.int32)
    updates = []
    for progress in (0.0, 0.5):
        step.start_epoch(progress)
        assert np.isfinite(float(step(x, y)))
        updates.append(int(step.optimizer.global_step.asnumpy()))
    assert updates == [1, 2]
    assert any(np.any(a.asnumpy() != w.asnumpy()) for a, w in zip(step.ema.averages, network.get_parameters()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--distillation_type", "hard"], "distillation_type is hard, but teacher_path is empty"),
        (["--distillation_type", "medium"], "distillation_type is 'medium', which is not known"),
        (["--distillation_alpha", "2"], "distillation_alpha is 2.0, but must be from 0 to 1"),
        (["--distillation_tau", "0"], "distillation_tau is 0.0, but must be above 0"),
        (["--mesa", "0.1"], "mesa is 0.1, but learns from the moving average: set ema to True."),
        (["--mesa", "-1"], "mesa is -1.0"),
        (["--mesa_start_ratio", "1.5"], "mesa_start_ratio is 1.5"),
        (["--label_smoothing", "-0.1"], "label_smoothing is -0.1"),
        (["--loss", "BCE", "--aux_factor", "0.4"], "MindCV's BCE leaves auxiliary logits out"),
    ],
)
def test_an_objective_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        parse(TrainOptions, "test", arguments)


def test_freezing_the_backbone_leaves_the_classifier():
    options = TrainOptions(model="fastvit_t8", num_classes=3, freeze_backbone=True, opt="adamw")
    network = build_network(options, ONE_DEVICE)
    assert [p.name for p in network.trainable_params()] == ["head.weight", "head.bias"]

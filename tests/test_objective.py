"""Distillation and MESA against NumPy, and what a teacher must not do."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from mindcv_models.training import Distillation, Mesa, Objective, Teacher, TrainStep
from tests.test_step import RATE, Linear, data

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
    objective = Objective(student, nn.CrossEntropyLoss(), terms)
    return TrainStep(objective, nn.SGD(student.trainable_params(), learning_rate=RATE))


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE])
def test_distillation_follows_its_formula_and_leaves_the_teacher_alone(kind, mode):
    ms.set_context(mode=mode)
    student, network, x, logits, guesses = student_and_teacher()
    teacher = Teacher(network)
    before = network.w.asnumpy().copy()
    loss = float(step_with(student, Distillation(teacher, kind, 0.3, 2.0))(Tensor(x), Tensor(LABELS)))
    own = cross_entropy(logits, LABELS)
    if kind == "hard":
        expected = 0.7 * own + 0.3 * cross_entropy(logits, guesses.argmax(1))
    else:
        expected = 0.7 * own + 0.3 * 4 * kl(guesses, logits, 2.0).sum() / logits.size
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_array_equal(network.w.asnumpy(), before)


def test_soft_distillation_gives_the_gradient_of_its_formula():
    student, network, x, logits, guesses = student_and_teacher()
    w = student.w.asnumpy().copy()
    step_with(student, Distillation(Teacher(network), "soft", 1.0, 2.0))(Tensor(x), Tensor(LABELS))
    # d KL / d logits = (softmax(student / tau) - softmax(teacher / tau)) / tau
    gap = np.exp(log_softmax(logits / 2)) - np.exp(log_softmax(guesses / 2))
    expected = w - RATE * x.T @ (4 * gap / 2 / logits.size)
    np.testing.assert_allclose(student.w.asnumpy(), expected, rtol=1e-5, atol=1e-7)


def test_mesa_starts_after_its_share_of_the_epochs_and_keeps_the_weights():
    student, network, x, logits, guesses = student_and_teacher()
    mesa = Mesa(Teacher(network, "ema."), 0.1, 0.25)
    step = step_with(student, mesa)
    own = cross_entropy(logits, LABELS)
    start = student.w.asnumpy().copy()
    for progress, active in ((0.0, False), (0.25, False), (0.26, True), (0.5, True)):
        student.w.set_data(Tensor(start))
        step.start_epoch(progress)
        expected = own + active * 0.1 * 50 * kl(guesses, logits, 3.0).sum(1).mean()
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

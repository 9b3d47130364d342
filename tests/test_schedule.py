"""Learning-rate schedules against their formulas."""

import math

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from mindcv_models.errors import InputError
from mindcv_models.options import RunOptions, parse
from mindcv_models.training import Schedule, build_optimizer, learning_rates

STEPS = 5  # updates an epoch
PEAK, LOW = 1.0, 0.1


def rates(scheduler, **changes):
    given = {"lr": PEAK, "min_lr": LOW, "warmup_epochs": 2, "warmup_factor": 0.2, "decay_epochs": 8, "epoch_size": 12}
    return learning_rates(RunOptions(scheduler=scheduler, **{**given, **changes}), STEPS)


def expected(after, stair=False, warmup=2, shift=True, epochs=12):
    """The warm-up, then ``after(epoch)``, no lower than the smallest rate; epochs are whole numbers with ``stair``."""
    values = []
    for update in range(epochs * STEPS):
        epoch = update // STEPS if stair else update / STEPS
        if epoch < warmup:
            values.append(PEAK * (0.2 + 0.8 * epoch / warmup))
        else:
            values.append(max(after(epoch - warmup if shift else epoch), LOW))
    return pytest.approx(values)


def cosine(epoch):
    return LOW + (PEAK - LOW) / 2 * (1 + math.cos(math.pi * min(epoch, 8) / 8))


@pytest.mark.parametrize("stair", [False, True])
def test_poly_falls_to_the_smallest_rate_over_the_rest_of_the_run(stair):
    """Semantic FPN's schedule: (lr - min_lr) * (1 - t / T)^0.9 + min_lr."""
    values = rates("poly", decay_rate=0.9, lr_epoch_stair=stair)
    assert values == expected(lambda epoch: LOW + (PEAK - LOW) * (1 - epoch / 10) ** 0.9, stair)
    official = learning_rates(
        RunOptions(scheduler="poly", lr=1e-4, min_lr=1e-6, decay_rate=0.9, warmup_epochs=0, epoch_size=80), 1000
    )
    assert len(official) == 80000
    for t in (0, 1, 40000, 79999):
        assert official[t] == pytest.approx((1e-4 - 1e-6) * (1 - t / 80000) ** 0.9 + 1e-6, rel=1e-9)


def test_a_warm_up_in_steps_is_a_factor_on_the_schedule():
    """mmdetection's: lr * (1 - (1 - t / 500) * (1 - factor)), over the rates of the schedule from the run's start."""
    options = RunOptions(scheduler="multi_step_decay", warmup_epochs=0, warmup_factor=0.001, lr=PEAK, min_lr=0.0,
                      multi_step_decay_milestones=(8, 11), decay_rate=0.1, epoch_size=12)  # fmt: skip
    plain = learning_rates(options, STEPS)
    options.warmup_steps = 50
    values = learning_rates(options, STEPS)
    factors = [min(1 - (1 - t / 50) * 0.999, 1) for t in range(12 * STEPS)]
    assert values == pytest.approx([rate * factor for rate, factor in zip(plain, factors)])
    assert values[0] == pytest.approx(0.001) and values[45] == pytest.approx(0.1 * (1 - 0.1 * 0.999))


@pytest.mark.parametrize("stair", [False, True])
@pytest.mark.parametrize("shift", [False, True])
def test_cosine(stair, shift):
    values = rates("cosine_decay", lr_epoch_stair=stair, warmup_prefix=shift)
    assert values == expected(cosine, stair, shift=shift)
    assert values[-1] == pytest.approx(LOW)


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize(
    ("scheduler", "after"),
    [
        ("constant", lambda epoch: PEAK),
        ("step_decay", lambda epoch: 0.5 ** (epoch // 3)),
        ("multi_step_decay", lambda epoch: 0.5 ** ((epoch >= 4) + (epoch >= 7))),
        ("exponential_decay", lambda epoch: 0.5**epoch),
        ("plateau", lambda epoch: PEAK),
    ],
)
def test_decays_that_do_not_end_with_the_run(scheduler, after, shift):
    values = rates(
        scheduler, decay_rate=0.5, decay_epochs=3, multi_step_decay_milestones=(4, 7), warmup_prefix=shift
    )  # fmt: skip
    assert values == expected(after, shift=shift)


@pytest.mark.parametrize("stair", [False, True])
@pytest.mark.parametrize(("shift", "length"), [(True, 10), (False, 12)])
def test_polynomial(stair, shift, length):
    values = rates("polynomial_decay", decay_rate=2.0, lr_epoch_stair=stair, warmup_prefix=shift)
    assert values == expected(lambda epoch: (1 - epoch / length) ** 2, stair, shift=shift)


def test_fastvits_schedule():
    options = RunOptions(
        scheduler="cosine_decay", lr=1e-3, min_lr=1e-5, warmup_epochs=5, warmup_factor=1e-3, warmup_prefix=False,
        decay_epochs=300, epoch_size=310, lr_epoch_stair=True,
    )  # fmt: skip
    values = learning_rates(options, 2)[::2]
    for epoch, value in enumerate(values):
        if epoch < 5:
            assert value == pytest.approx(1e-6 + epoch * (1e-3 - 1e-6) / 5)
        else:
            cosine = 1 + math.cos(math.pi * min(epoch, 300) / 300)
            assert value == pytest.approx(1e-5 + (1e-3 - 1e-5) / 2 * cosine)
    assert len(values) == 310


def plateau(**changes):
    given = {"lr": PEAK, "min_lr": 0.3, "warmup_epochs": 0, "epoch_size": 9, "val_while_train": True}
    return RunOptions(**{**given, "scheduler": "plateau", "decay_rate": 0.5, "patience_epochs": 1, **changes})


def test_plateau_lowers_the_rate_of_a_compiled_optimizer():
    class Weight(nn.Cell):
        def __init__(self):
            super().__init__()
            self.w = Parameter(Tensor(np.zeros(1, np.float32)))

    network, schedule = Weight(), Schedule(plateau(), 1)
    options = plateau(opt="sgd", momentum=0.0, weight_decay=0.0)
    optimizer = build_optimizer(options, network, schedule)
    steps = []
    for score in (0.2, 0.3, 0.3, 0.3, 0.4, 0.1, 0.1, 0.1, 0.1):
        before = float(network.w.asnumpy()[0])
        optimizer((Tensor([1.0], ms.float32),))
        steps.append(before - float(network.w.asnumpy()[0]))
        schedule.after_validation(score)
    # Halved after two validations in a row that were not better, and never below min_lr.
    assert steps == pytest.approx([1, 1, 1, 1, 0.5, 0.5, 0.5, 0.3, 0.3])
    assert schedule.at(100) == pytest.approx(0.3)


def test_plateau_goes_on_from_its_state():
    whole, first = Schedule(plateau(), 1), Schedule(plateau(), 1)
    for score in (0.5, 0.4):
        whole.after_validation(score)
        first.after_validation(score)
    second = Schedule(plateau(), 1)
    second.load_state_dict(first.state_dict())
    whole.after_validation(0.4)
    second.after_validation(0.4)
    assert whole.at(0) == second.at(0) == 0.5
    assert float(second.rate()(Tensor(0, ms.int32)).asnumpy()) == 0.5


def test_other_schedules_do_not_listen_to_validation():
    schedule = Schedule(RunOptions(scheduler="constant", warmup_epochs=0, lr=PEAK, epoch_size=2), 1)
    for _ in range(20):
        schedule.after_validation(0.1)
    assert schedule.at(1) == PEAK


def test_an_unknown_state_is_not_half_loaded():
    schedule = Schedule(plateau(), 1)
    with pytest.raises(KeyError):
        schedule.load_state_dict({"best": 1.0})
    assert schedule.at(0) == PEAK


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scheduler", "plateau"], "scheduler plateau goes by validation: set val_while_train to True."),
        (["--scheduler", "plateau", "--val_while_train", "--decay_rate", "1"], "plateau needs one between 0 and 1"),
        (["--scheduler", "plateau", "--val_while_train", "--patience_epochs", "-1"], "patience_epochs is -1"),
        (["--scheduler", "one_cycle"], "one_cycle has its own warm-up"),
        (["--warmup_epochs", "-1"], "warmup_epochs is -1"),
        (["--decay_epochs", "0"], "decay_epochs is 0"),
        (["--lr", "0"], "lr is 0.0"),
    ],
)
def test_values_that_no_schedule_can_have_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        parse(RunOptions, "test", arguments)

"""Optimizers: MindCV's, and those that are this project's own.

MindCV's AdamW is exact but made of a dozen small operators a parameter, which cost compile and step time; its LAMB has
no CPU kernel; Sophia it has not.
"""

import logging
from typing import List, Sequence

import mindspore as ms
import numpy as np
from mindcv.optim import create_optimizer
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ..config import Options
from ..errors import InputError
from .groups import Group, parameter_groups
from .schedule import Rate, Schedule

__all__ = ["AdamW", "GroupedOptimizer", "Lamb", "SophiaG", "build_optimizer"]

# MindCV's optimizers that take two betas.
_WITH_BETAS = ("adam", "lion", "nadam")


def build_optimizer(options: Options, network: nn.Cell, schedule: Schedule) -> nn.Cell:
    """The optimizer over the network's trainable parameters; the loss scale is the training step's business.

    Raises:
        InputError: the optimizer has no such option as ``opt_betas`` or ``opt_eps``.
    """
    groups = parameter_groups(options, network)
    order = network.trainable_params()
    own = {"adamw": AdamW, "lamb": Lamb, "sophiag": SophiaG}.get(options.opt)
    if own is None:
        return _mindcv_optimizer(options, groups, order, schedule)
    changes = {"betas": options.opt_betas, "eps": options.opt_eps}
    if own is SophiaG:
        changes.update(rho=options.rho, k=options.k)
    rates = [schedule.rate(group.peak, group.scale) for group in groups]
    return own(groups, rates, order, **{name: value for name, value in changes.items() if value is not None})


def _mindcv_optimizer(options, groups, order, schedule):
    if options.opt_eps is not None:
        raise InputError(f"opt_eps is {options.opt_eps}, but {options.opt} does not take it: leave it out.")
    betas = {}
    if options.opt_betas is not None:
        if options.opt not in _WITH_BETAS:
            raise InputError(f"opt_betas is {options.opt_betas}, but {options.opt} does not take it: leave it out.")
        betas = dict(zip(("beta1", "beta2"), options.opt_betas))
    # "auto" is MindCV's word for groups that are complete; its warning about them is for others.
    logging.getLogger("mindcv.optim.optim_factory").setLevel(logging.ERROR)
    listed = [
        {"params": g.parameters, "lr": schedule.rate(g.peak, g.scale), "weight_decay": g.weight_decay} for g in groups
    ]
    return create_optimizer(
        [*listed, {"order_params": order}],
        opt=options.opt,
        lr=schedule.rate(),
        weight_decay=options.weight_decay,
        momentum=options.momentum,
        nesterov=options.use_nesterov,
        weight_decay_filter="auto",
        eps=options.eps,
        **betas,
    )


class GroupedOptimizer(nn.Cell):
    """What the optimizers here share: the parameters in order, their group's rate and decay, the count of updates.

    Called with the gradients of ``parameters``. ``global_step`` counts the updates done.

    Args:
        groups: every parameter of ``order`` is in exactly one.
        rates: the learning rate of each group, from :meth:`Schedule.rate`.
        order: the parameters in the order of their gradients.
    """

    def __init__(self, groups: Sequence[Group], rates: Sequence[Rate], order: List[Parameter]):
        super().__init__(auto_prefix=False)
        self.parameters = ParameterTuple(order)
        self.rates = nn.CellList(list(rates), auto_prefix=False)
        group_of = {parameter.name: i for i, group in enumerate(groups) for parameter in group.parameters}
        self.group_of = tuple(group_of[parameter.name] for parameter in order)
        self.decays = tuple(float(groups[i].weight_decay) for i in self.group_of)
        self.global_step = Parameter(Tensor(0, ms.int32), name="global_step", requires_grad=False)

    def next_step(self):
        """Count an update; the learning rate of every parameter for it, and its number, 1 for the first, as a float."""
        by_group = ()
        for rate in self.rates:
            by_group += (rate(self.global_step),)
        rates = ()
        for i in self.group_of:
            rates += (by_group[i],)
        step = self.global_step + 1
        self.global_step = step
        return rates, step.astype(ms.float32)


class AdamW(GroupedOptimizer):
    """AdamW (arXiv:1711.05101) with bias correction, one fused operator a parameter.

    The operator has no bias correction. It gets one through its arguments: with ``c1 = 1 - beta1^t`` and
    ``c2 = sqrt(1 - beta2^t)``, the rate ``lr * c2 / c1``, the epsilon ``eps * c2`` and the decay ``decay * c1 / c2``
    make exactly ``w - lr * (m / c1 / (sqrt(v) / c2 + eps) + decay * w)``.
    """

    def __init__(self, groups, rates, order, betas=(0.9, 0.999), eps=1e-8):
        super().__init__(groups, rates, order)
        self.beta1, self.beta2 = (Tensor(beta, ms.float32) for beta in betas)
        self.eps = eps
        self.m = self.parameters.clone(prefix="adam_m", init="zeros")
        self.v = self.parameters.clone(prefix="adam_v", init="zeros")
        self.update = ops.AdamWeightDecay()

    def construct(self, gradients):
        rates, step = self.next_step()
        ratio = ops.sqrt(1 - ops.pow(self.beta2, step)) / (1 - ops.pow(self.beta1, step))
        eps = self.eps * ops.sqrt(1 - ops.pow(self.beta2, step))
        done = step
        for i in range(len(gradients)):
            new = self.update(self.parameters[i], self.m[i], self.v[i], rates[i] * ratio, self.beta1, self.beta2,
                              eps, self.decays[i] / ratio, gradients[i])  # fmt: skip
            done = ops.depend(done, new)
        return done


class Lamb(GroupedOptimizer):
    """LAMB (arXiv:1904.00962) as FasterViT's recipes use it, through timm.

    Gradients are first clipped to a global norm of 1. The trust ratio, norm of the weight by norm of its update and 1
    where either is 0, is for parameters with weight decay only.
    """

    def __init__(self, groups, rates, order, betas=(0.9, 0.999), eps=1e-6):
        super().__init__(groups, rates, order)
        self.beta1, self.beta2 = betas
        self.eps = eps
        self.m = self.parameters.clone(prefix="lamb_m", init="zeros")
        self.v = self.parameters.clone(prefix="lamb_v", init="zeros")

    def construct(self, gradients):
        gradients = ops.clip_by_global_norm(gradients, 1.0)
        rates, step = self.next_step()
        correction1 = 1 - ops.pow(Tensor(self.beta1, ms.float32), step)
        correction2 = 1 - ops.pow(Tensor(self.beta2, ms.float32), step)
        done = step
        for i in range(len(gradients)):
            weight, gradient = self.parameters[i], gradients[i]
            m = self.beta1 * self.m[i] + (1 - self.beta1) * gradient
            v = self.beta2 * self.v[i] + (1 - self.beta2) * ops.square(gradient)
            change = m / correction1 / (ops.sqrt(v / correction2) + self.eps)
            if self.decays[i] > 0:
                change = change + self.decays[i] * weight
                change = change * trust_ratio(norm(weight), norm(change))
            new = (ops.assign(weight, weight - rates[i] * change), ops.assign(self.m[i], m), ops.assign(self.v[i], v))
            done = ops.depend(done, new)
        return done


class SophiaG(GroupedOptimizer):
    """Sophia with the Gauss-Newton-Bartlett estimate (arXiv:2305.14342, algorithms 2 and 3).

    The weight decays by ``lr * decay``, then loses ``lr * clip(m / max(rho * h, eps), 1)``. Every ``k`` updates, the
    first included, the training step gives :meth:`estimate` the gradient for labels that are drawn from the network's
    own predictions. What is drawn is a function of ``global_step``, so that a resumed run draws the same.
    """

    DRAWS = 1 << 16

    def __init__(self, groups, rates, order, betas=(0.965, 0.99), eps=1e-15, rho=0.04, k=10):
        super().__init__(groups, rates, order)
        self.beta1, self.beta2 = betas
        self.eps = eps
        self.rho = rho
        self.k = k
        self.uniform = Tensor(np.random.RandomState(0).rand(self.DRAWS), ms.float32)
        self.m = self.parameters.clone(prefix="sophia_m", init="zeros")
        self.h = self.parameters.clone(prefix="sophia_h", init="zeros")

    def is_due(self):
        """Whether the curvature is to be estimated before the next update."""
        return self.global_step % self.k == 0

    def draws(self, images, rank, ranks):
        """Uniform numbers ``(images,)`` for the labels of this rank's share of the update's images."""
        first = (self.global_step // self.k * ranks + rank) * images
        return ops.gather(self.uniform, (first + ops.arange(images)) % self.DRAWS, 0)

    def estimate(self, gradients, images, usable):
        """Average in the curvature ``images * gradient^2``, if ``usable``; the gradient is the mean over the images."""
        done = self.global_step
        for i in range(len(gradients)):
            h = self.beta2 * self.h[i] + (1 - self.beta2) * images * ops.square(gradients[i])
            done = ops.depend(done, ops.assign(self.h[i], ops.select(usable, h, self.h[i])))
        return done

    def construct(self, gradients):
        rates, step = self.next_step()
        done = step
        for i in range(len(gradients)):
            weight = self.parameters[i]
            m = self.beta1 * self.m[i] + (1 - self.beta1) * gradients[i]
            change = ops.clamp(m / ops.maximum(self.rho * self.h[i], self.eps), -1.0, 1.0)
            new = weight - rates[i] * (self.decays[i] * weight + change)
            done = ops.depend(done, (ops.assign(weight, new), ops.assign(self.m[i], m)))
        return done


def norm(tensor):
    return ops.sqrt(ops.square(tensor).sum())


def trust_ratio(weight_norm, change_norm):
    """LAMB's ratio of two norms, 1 where either is 0."""
    usable = ops.logical_and(weight_norm > 0, change_norm > 0)
    one = ops.ones_like(weight_norm)
    return ops.select(usable, weight_norm / ops.select(usable, change_norm, one), one)

"""Optimizers: MindCV's, and those that are this project's own.

MindCV's AdamW is exact but made of a dozen small operators a parameter: FastViT-T8's update takes 54 ms on one core
of an Intel Xeon (AVX-512), and 14 ms here; 25 ms with MindSpore's operator, one a parameter. Its LAMB has no CPU
kernel; Sophia it has not.
"""

import logging
from typing import Sequence

import mindspore as ms
import numpy as np
from mindcv.optim import create_optimizer
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ..errors import InputError
from ..layers.custom import in_graph_mode
from ..options import RunOptions
from .clipping import GlobalNormClip
from .groups import Group, parameter_groups
from .schedule import Rate, Schedule
from .updates import update_operator

__all__ = ["AdamW", "GroupedOptimizer", "Lamb", "SophiaG", "build_optimizer"]

# MindCV's optimizers that take two betas.
_WITH_BETAS = ("adam", "lion", "nadam")


def build_optimizer(options: RunOptions, network: nn.Cell, schedule: Schedule) -> nn.Cell:
    """The optimizer over the network's trainable parameters; the loss scale is the training step's business.

    Raises:
        InputError: the optimizer has no such option as ``opt_betas`` or ``opt_eps``.
    """
    groups = parameter_groups(options, network)
    own = {"adamw": AdamW, "lamb": Lamb, "sophiag": SophiaG}.get(options.opt)
    if own is None:
        return _mindcv_optimizer(options, groups, network.trainable_params(), schedule)
    changes = {"betas": options.opt_betas, "eps": options.opt_eps}
    if own is SophiaG:
        changes.update(rho=options.sophia_rho, k=options.sophia_k)
    rates = [schedule.rate(group.peak, group.scale) for group in groups]
    return own(groups, rates, **{name: value for name, value in changes.items() if value is not None})


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
    """What the optimizers here share: parameters by group, their rate and decay, the count of updates.

    Called with the gradients of ``parameters``, which are in the order of their groups. ``global_step`` counts the
    updates done. Parameters are updated through HyperMap: a loop would nest a call for each, and large networks have
    more of them than MindSpore's compiler lets calls nest.

    Args:
        groups: parameters that share a learning rate and a weight decay.
        rates: the learning rate of each group, from :meth:`Schedule.rate`.
    """

    def __init__(self, groups: Sequence[Group], rates: Sequence[Rate]):
        super().__init__(auto_prefix=False)
        self.parameters = ParameterTuple([parameter for group in groups for parameter in group.parameters])
        self.rates = nn.CellList(list(rates), auto_prefix=False)
        self.decays = tuple(float(group.weight_decay) for group in groups)
        ends = np.cumsum([len(group.parameters) for group in groups]).tolist()
        self.parts = tuple(zip([0, *ends], ends))
        self.global_step = Parameter(Tensor(0, ms.int32), name="global_step", requires_grad=False)
        self.map = ops.HyperMap()

    def moments(self, prefix):
        """Zeros in the shape of every parameter, named after it."""
        return self.parameters.clone(prefix=prefix, init="zeros")

    def next_step(self):
        """Count an update; the learning rate of every group for it, and its number, 1 for the first, as a float."""
        rates = ()
        for rate in self.rates:
            rates += (rate(self.global_step),)
        step = self.global_step + 1
        self.global_step = step
        return rates, step.astype(ms.float32)

    def apply(self, arguments, first, second, gradients, done):
        """Update every parameter after ``done``; the same value again, for whoever is to wait for the updates.

        Args:
            arguments: for each group, the tuple that ``update`` takes before the weight, its moments and its gradient.
            first, second: two moments of every parameter.
        """
        for i in range(len(arguments)):
            a, b = self.parts[i]
            update = ops.partial(self.update, arguments[i])
            done = ops.depend(done, self.map(update, self.parameters[a:b], first[a:b], second[a:b], gradients[a:b]))
        return done


class AdamW(GroupedOptimizer):
    """AdamW (arXiv:1711.05101) with bias correction: one operator a group on the CPU, elsewhere one a parameter.

    The operators have no bias correction. They get one through their arguments: with ``c1 = 1 - beta1^t`` and
    ``c2 = sqrt(1 - beta2^t)``, the rate ``lr * c2 / c1``, the epsilon ``eps * c2`` and the decay ``decay * c1 / c2``
    make exactly ``w - lr * (m / c1 / (sqrt(v) / c2 + eps) + decay * w)``.
    """

    def __init__(self, groups, rates, betas=(0.9, 0.999), eps=1e-8):
        super().__init__(groups, rates)
        self.beta1, self.beta2 = (Tensor(beta, ms.float32) for beta in betas)
        self.eps = eps
        self.m, self.v = self.moments("adam_m"), self.moments("adam_v")
        self.fused = ops.AdamWeightDecay()
        self.at_once = tuple(
            update_operator("adamw", [*self.parameters[a:b], *self.m[a:b], *self.v[a:b]], b - a) for a, b in self.parts
        )
        self.has_at_once = None not in self.at_once

    def construct(self, gradients):
        rates, step = self.next_step()
        c1 = 1 - ops.pow(self.beta1, step)
        c2 = ops.sqrt(1 - ops.pow(self.beta2, step))
        arguments = ()
        for i in range(len(rates)):
            arguments += ((rates[i] * c2 / c1, self.eps * c2, self.decays[i] * c1 / c2),)
        if self.has_at_once and in_graph_mode():
            return self.apply_at_once(arguments, gradients, step)
        return self.apply(arguments, self.m, self.v, gradients, step)

    def apply_at_once(self, arguments, gradients, done):
        for i in range(len(arguments)):
            a, b = self.parts[i]
            rate, eps, decay = arguments[i]
            numbers = ops.stack((rate, self.beta1, self.beta2, eps, decay))
            tensors = *self.parameters[a:b], *self.m[a:b], *self.v[a:b], *gradients[a:b]
            done = ops.depend(done, self.at_once[i](numbers, *tensors))
        return done

    def update(self, arguments, weight, m, v, gradient):
        rate, eps, decay = arguments
        return self.fused(weight, m, v, rate, self.beta1, self.beta2, eps, decay, gradient)


class Lamb(GroupedOptimizer):
    """LAMB (arXiv:1904.00962) as FasterViT's recipes use it, through timm.

    Gradients are first clipped to a global norm of 1. The trust ratio, norm of the weight by norm of its update and 1
    where either is 0, is for parameters with weight decay only.
    """

    def __init__(self, groups, rates, betas=(0.9, 0.999), eps=1e-6):
        super().__init__(groups, rates)
        self.beta1, self.beta2 = betas
        self.eps = eps
        self.m, self.v = self.moments("lamb_m"), self.moments("lamb_v")
        self.clip = GlobalNormClip(1.0)

    def construct(self, gradients):
        gradients = self.clip(gradients)
        rates, step = self.next_step()
        c1 = 1 - ops.pow(Tensor(self.beta1, ms.float32), step)
        c2 = 1 - ops.pow(Tensor(self.beta2, ms.float32), step)
        arguments = ()
        for i in range(len(rates)):
            arguments += ((rates[i], c1, c2, self.decays[i]),)
        return self.apply(arguments, self.m, self.v, gradients, step)

    def update(self, arguments, weight, m, v, gradient):
        rate, c1, c2, decay = arguments
        new_m = self.beta1 * m + (1 - self.beta1) * gradient
        new_v = self.beta2 * v + (1 - self.beta2) * ops.square(gradient)
        change = new_m / c1 / (ops.sqrt(new_v / c2) + self.eps)
        if decay > 0:
            change = change + decay * weight
            change = change * trust_ratio(norm(weight), norm(change))
        return ops.assign(weight, weight - rate * change), ops.assign(m, new_m), ops.assign(v, new_v)


class SophiaG(GroupedOptimizer):
    """Sophia with the Gauss-Newton-Bartlett estimate (arXiv:2305.14342, algorithms 2 and 3).

    The weight decays by ``lr * decay``, then loses ``lr * clip(m / max(rho * h, eps), 1)``. Every ``k`` updates, the
    first included, the training step gives :meth:`estimate` the gradient for labels that are drawn from the network's
    own predictions. What is drawn is a function of ``global_step``, so that a resumed run draws the same.
    """

    DRAWS = 1 << 16

    def __init__(self, groups, rates, betas=(0.965, 0.99), eps=1e-15, rho=0.04, k=10):
        super().__init__(groups, rates)
        self.beta1, self.beta2 = betas
        self.eps = eps
        self.rho = rho
        self.k = k
        self.uniform = Tensor(np.random.RandomState(0).rand(self.DRAWS), ms.float32)
        self.m, self.h = self.moments("sophia_m"), self.moments("sophia_h")

    def is_due(self) -> bool:
        """Whether the curvature is to be estimated before the next update; waits for the one before."""
        return int(self.global_step.asnumpy()) % self.k == 0

    def draws(self, images, rank, ranks):
        """Uniform numbers ``(images,)`` for the labels of this rank's share of the update's images."""
        first = (self.global_step // self.k * ranks + rank) * images
        return ops.gather(self.uniform, (first + ops.arange(images)) % self.DRAWS, 0)

    def estimate(self, gradients, images, usable):
        """Average in the curvature ``images * gradient^2``, if ``usable``; the gradient is the mean over the images."""
        return self.map(ops.partial(self.average_in, images, usable), self.h, gradients)

    def average_in(self, images, usable, h, gradient):
        new = self.beta2 * h + (1 - self.beta2) * images * ops.square(gradient)
        return ops.assign(h, ops.select(usable, new, h))

    def construct(self, gradients):
        rates, step = self.next_step()
        arguments = ()
        for i in range(len(rates)):
            arguments += ((rates[i], self.decays[i]),)
        return self.apply(arguments, self.m, self.h, gradients, step)

    def update(self, arguments, weight, m, h, gradient):
        rate, decay = arguments
        new_m = self.beta1 * m + (1 - self.beta1) * gradient
        change = ops.clamp(new_m / ops.maximum(self.rho * h, self.eps), -1.0, 1.0)
        return ops.assign(weight, weight - rate * (decay * weight + change)), ops.assign(m, new_m)


def norm(tensor):
    return ops.sqrt(ops.square(tensor).sum())


def trust_ratio(weight_norm, change_norm):
    """LAMB's ratio of two norms, 1 where either is 0."""
    usable = ops.logical_and(weight_norm > 0, change_norm > 0)
    one = ops.ones_like(weight_norm)
    return ops.select(usable, weight_norm / ops.select(usable, change_norm, one), one)

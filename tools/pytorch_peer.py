"""The PyTorch side of tools/pytorch_benchmark.py: a process that imports no MindSpore and answers in lines of JSON.

Started with a job as JSON: model, train, compiled, batch_size, image_size, threads, queued, warmup. It answers with the
seconds of the first call, then each line of its input, ``turn`` or ``memory``, with what that gave.
"""

import contextlib
import json
import re
import sys
import time
import warnings
from pathlib import Path
from unittest import mock


class MissingError(Exception):
    """What to install, or that no package has the model."""


def builder_of(name: str, train: bool):
    """What builds a model with random weights: fastervit's, or timm's, whose FastViT is fused for inference."""
    try:
        import torch

        with mock.patch.object(torch.library, "register_fake", _register_what_is_there(torch.library.register_fake)):
            import timm
            from timm.utils.model import reparameterize_model

            if name.startswith("faster_vit"):
                import fastervit

                return lambda: fastervit.create_model(name, drop_path_rate=0.0)
    except ImportError as error:
        words = f"PyTorch's side needs {error.name}: pip install torch torchvision timm fastervit."
        raise MissingError(words) from error
    if not timm.is_model(name):
        raise MissingError(f"timm {timm.__version__} has no model {name!r}: compare others.")
    if train or not name.startswith("fastvit"):
        return lambda: timm.create_model(name)
    return lambda: reparameterize_model(timm.create_model(name).eval())


def _register_what_is_there(register_fake):
    """A torchvision built for GPUs does not load its operators beside a CPU's PyTorch; these networks need none."""

    def tolerant(operator, *args, **kwargs):
        def register(function):
            with contextlib.suppress(RuntimeError):
                register_fake(operator, *args, **kwargs)(function)
            return function

        return register

    return tolerant


class Peer:
    """A model in PyTorch with a batch of noise in memory, warmed up; ``first`` is the seconds of its first call."""

    def __init__(self, job):
        build = builder_of(job["model"], job["train"])
        import torch

        torch.set_num_threads(job["threads"])
        torch.manual_seed(0)
        self.before = peak_memory()
        network = build()
        self.queued = job["queued"]
        images = torch.randn(job["batch_size"], 3, *job["image_size"])
        self.call = training(network, images) if job["train"] else inference(network, images)
        if job["compiled"]:
            network.compile()
        self.first = self.seconds(1)
        for _ in range(job["warmup"]):
            self.seconds(1)

    def turn(self):
        """Seconds of one call, and seconds per call of several consecutive ones."""
        return self.seconds(1), self.seconds(self.queued) / self.queued

    def memory(self):
        """Peak memory in bytes above that of the packages alone; None if the system does not report it."""
        peak = peak_memory()
        return None if peak is None else max(peak - self.before, 0)

    def seconds(self, calls):
        start = time.perf_counter()
        for _ in range(calls):
            self.call()
        return time.perf_counter() - start


def inference(network, images):
    import torch

    network.eval()
    return torch.inference_mode()(lambda: network(images))


def training(network, images):
    """A step of AdamW on one batch of labels."""
    import torch

    labels = torch.arange(len(images))
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05)

    def step():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()

    return step


def peak_memory():
    try:
        return int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))[1]) * 1024
    except OSError:
        return None


def main():
    answers, sys.stdout = sys.stdout, sys.stderr  # what packages print does not come between the answers
    warnings.simplefilter("ignore")
    try:
        peer = Peer(json.loads(sys.argv[1]))
    except MissingError as error:
        print(json.dumps({"error": str(error)}), file=answers, flush=True)
        return
    print(json.dumps(peer.first), file=answers, flush=True)
    for question in sys.stdin:
        print(json.dumps(getattr(peer, question.strip())()), file=answers, flush=True)


if __name__ == "__main__":
    main()

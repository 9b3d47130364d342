"""Ranks of one host average their gradients in shared memory."""

import ctypes
import os
import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest

from mindcv_models import backend, distributed, shared_memory
from tests.helpers.launch import PATIENCE, ROOT

LIBRARY = backend.compile_library(shared_memory._SOURCE)


@pytest.fixture
def file():
    file = os.memfd_create("test")
    yield file
    os.close(file)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_means_are_the_same_bits_on_every_rank_whatever_the_shapes(file, ranks):
    os.ftruncate(file, ctypes.CDLL(str(LIBRARY)).bytes_shared(ranks))
    script = ROOT / "tests" / "helpers" / "shared_ranks.py"
    words = [[sys.executable, script, LIBRARY, *map(str, (file, rank, ranks))] for rank in range(ranks)]
    jobs = [subprocess.Popen(line, pass_fds=[file], stderr=subprocess.PIPE, text=True) for line in words]
    errors = [job.communicate(timeout=PATIENCE)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0] * ranks, errors


def test_the_operator_stands_in_for_messages_in_a_graph(monkeypatch):
    monkeypatch.setattr(shared_memory, "_shared", False)
    assert distributed.AllReduceMean(distributed.World(0, 2)).shared is None
    assert shared_memory.share_memory(0, 1, list)
    monkeypatch.setattr(distributed.ops, "AllReduce", lambda _: None)
    mean = distributed.AllReduceMean(distributed.World(0, 2))
    tensors = [ms.Tensor(np.full(shape, len(shape) + 1, "f4")) for shape in ((3, 4), (), (5,))]
    for given, found in zip(tensors, mean(tuple(tensors))):
        np.testing.assert_array_equal(found.asnumpy(), given.asnumpy(), strict=True)


def test_all_ranks_share_or_none(monkeypatch):
    monkeypatch.setattr(shared_memory, "_shared", False)
    totals = iter([lambda own: own, lambda found: found])
    assert not shared_memory.share_memory(0, 2, lambda numbers: next(totals)(numbers))
    assert shared_memory.mean_operator() is None


@pytest.mark.parametrize("kind", ["pipe", "other file", "short file"])
def test_a_file_of_another_process_is_not_taken(file, kind):
    word = 7
    os.write(file, b"word" if kind == "short file" else (8).to_bytes(6, "big"))
    other = os.pipe()[0] if kind == "pipe" else file
    assert not shared_memory._has(other, word)
    os.truncate(file, 0)
    os.pwrite(file, word.to_bytes(6, "big"), 100)
    assert shared_memory._has(file, word)

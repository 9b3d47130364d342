"""Run by tests/test_shared_memory.py: one rank of several that average arrays through the C++ library alone.

python tests/helpers/shared_ranks.py LIBRARY FILE RANK RANKS
"""

import ctypes
import sys

import numpy as np

CALLS = 30


def means(library, arrays):
    """What the operator gives, called as MindSpore calls it."""
    results = [np.full_like(array, np.nan) for array in arrays]
    tensors = [*arrays, *results]
    shapes = [(ctypes.c_int64 * max(1, tensor.ndim))(*tensor.shape) for tensor in tensors]
    status = library.mean_over_ranks(
        len(tensors),
        (ctypes.c_void_p * len(tensors))(*(tensor.ctypes.data for tensor in tensors)),
        (ctypes.c_int * len(tensors))(*(tensor.ndim for tensor in tensors)),
        (ctypes.c_void_p * len(tensors))(*map(ctypes.addressof, shapes)),
        None, None, None,
    )  # fmt: skip
    assert status == 0
    return results


def main():
    library = ctypes.CDLL(sys.argv[1])
    file, rank, ranks = map(int, sys.argv[2:])
    assert library.share(file, rank, ranks) == 0
    rng = np.random.default_rng(0)
    for _ in range(CALLS):
        shapes = [rng.integers(1, 90, rng.integers(0, 4)) for _ in range(rng.integers(2, 9))]
        of_ranks = [[np.asarray(rng.standard_normal(shape), "f4") for shape in shapes] for _ in range(ranks)]
        for found, *values in zip(means(library, of_ranks[rank]), *of_ranks):
            np.testing.assert_array_equal(found, np.add.reduce(values) / np.float32(ranks))


if __name__ == "__main__":
    main()

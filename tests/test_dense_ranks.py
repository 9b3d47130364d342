"""Training of the dense models by two ranks that mpirun started."""

import json

import numpy as np
import pytest

from mindcv_models.data.scenes import write_scenes
from tests.helpers import dense_ranks
from tests.helpers.launch import ONE, TWO_RANKS, run

pytestmark = [pytest.mark.slow, pytest.mark.process]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", (16, 4))


@pytest.fixture(scope="module")
def learnt(data, tmp_path_factory):
    """The folder in which one rank, and two, told what they had learnt."""
    folder = tmp_path_factory.mktemp("learnt")
    (folder / "data").symlink_to(data)
    for launcher in (ONE, TWO_RANKS):
        done = run(*launcher, "-m", "tests.helpers.dense_ranks", folder)
        assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.parametrize("model", dense_ranks.MODELS)
def test_two_ranks_learn_what_one_does_from_both_batches(model, learnt):
    one, two = (json.loads((learnt / f"told-{size}.json").read_text())[model] for size in (1, 2))
    assert len(one["losses"]) == dense_ranks.UPDATES
    assert abs(one["losses"][0][0] - one["losses"][-1][0]) > 1e-2
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=0, atol=1e-5)
    assert two["spread"] < 1e-6
    with np.load(learnt / f"{model}-1.npz") as one, np.load(learnt / f"{model}-2.npz") as two:
        assert set(one) == set(two) and len(one) > 50
        for name in one:
            np.testing.assert_allclose(two[name], one[name], rtol=0, atol=1e-5, err_msg=name)

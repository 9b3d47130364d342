"""Training of the dense models by two ranks that mpirun started."""

import json

import numpy as np
import pytest

from mindcv_models.data.scenes import write_scenes
from tests.helpers import dense_ranks, runs
from tests.helpers.launch import ONE, TWO_RANKS, run
from tests.helpers.several import several
from tests.helpers.tiny_detector import MASK_NETWORK, NETWORK, TWO_EPOCHS

pytestmark = [pytest.mark.slow, pytest.mark.process]

VIEWS = ["--ratio_range", "0.7", "1.4", "--photometric", "True"]
SMALL = ["--batch_size", "2", "--distribute", "True", "--val_while_train", "False", "--ema", "True"]
DETECTOR = [*TWO_EPOCHS, *VIEWS, "--lr", "0.005"]
RUNS = {
    "retinanet": [*NETWORK, *DETECTOR],
    "mask_rcnn": [*MASK_NETWORK, *DETECTOR, "--regions", "60", "--region_samples", "24"],
    "semantic_fpn": [
        "--model", "semantic_fpn", "--backbone", "tiny_maps", "--channels", "8", "--head_channels", "8", "--crop_size",
        "64", "64", "--dataset", "digits_scenes", "--num_parallel_workers", "1", "--epoch_size", "2", "--opt", "adamw",
        "--lr", "0.01", "--warmup_epochs", "0", "--drop_rate", "0.3",
    ],
}  # fmt: skip


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


@pytest.fixture(scope="module")
def resumed(data, tmp_path_factory):
    """Folders of two ranks' runs: those that went through, and those that were stopped and resumed."""
    folder = tmp_path_factory.mktemp("resumed")
    scripts = []
    for model, options in RUNS.items():
        words = [*options, *SMALL, "--data_dir", data, "--ckpt_save_dir"]
        scripts += [
            ("train", [*words, folder / "whole" / model]),
            ("tests.helpers.stopped_train", [*words, folder / "parts" / model]),
            ("train", [*words, folder / "parts" / model, "--resume", "auto"]),
        ]
    done = several(lambda *words: run(*TWO_RANKS, *words), folder / "jobs", scripts)
    assert [each.status for each in done] == [[0, 0], [143, 143], [0, 0]] * len(RUNS), [e.stderr for e in done]
    return folder


@pytest.mark.parametrize("model", RUNS)
def test_a_stopped_run_of_two_ranks_goes_on_bit_for_bit(model, resumed):
    for rank in (0, 1):
        runs.assert_same_run(resumed / "parts" / model, resumed / "whole" / model, rank)

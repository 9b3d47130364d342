"""What every test starts from: graph mode on the CPU, and errors from our own code's warnings."""

import gc
import shutil

import mindspore as ms
import pytest

from mindcv_models.training import report
from tests.helpers.images import noise_folder

PICTURES = report.PICTURES
# The files that take longest, longest first: begun early, none keeps one process busy when the others have ended.
LONGEST = (
    "fastvit", "mask_rcnn_scripts", "operators", "resume", "recipes", "distributed", "export", "fastervit", "litv2",
    "models", "detection", "segmentation_run", "dense_cases", "serving", "torch_file", "packaging",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    order = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


def pytest_collection_finish():
    """MindSpore collects garbage with each compilation: spare it what all imports have left, which is never freed."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def no_pictures():
    """Reports of runs have no pictures, which take as long as the steps of a small run; see ``pictures``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "PICTURES", ())
        yield


@pytest.fixture
def pictures(monkeypatch):
    """Reports have their pictures."""
    monkeypatch.setattr(report, "PICTURES", PICTURES)


@pytest.fixture(autouse=True)
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


@pytest.fixture
def eager():
    """Operator by operator: nothing is compiled, which takes most of a test's time.

    Each operator ends before the next begins: otherwise four threads hand them on, and spin while they wait. A test
    that sets PyNative mode itself runs as users do.
    """
    ms.set_context(mode=ms.PYNATIVE_MODE, pynative_synchronize=True)
    yield
    ms.set_context(pynative_synchronize=False)


@pytest.fixture(
    params=[
        pytest.param(ms.PYNATIVE_MODE, id="eager"),
        pytest.param(ms.GRAPH_MODE, id="compiled", marks=pytest.mark.slow),
    ]
)
def both_modes(request):
    """Eagerly, and in the exhaustive run compiled as well."""
    if request.param == ms.PYNATIVE_MODE:
        request.getfixturevalue("eager")


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """An image folder of 24 images of noise, the same ones to train and to validate."""
    root = noise_folder(tmp_path_factory.mktemp("images"))
    shutil.copytree(root / "train", root / "val")
    return root

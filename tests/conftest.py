"""What every test starts from: graph mode on the CPU, and errors from our own code's warnings.

MindSpore is imported within fixtures: the process that hands tests out to others does without it.
"""

import functools
import gc
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import pytest

# The files that take longest, longest first: begun early, none keeps one process busy when the others have ended.
LONGEST = (
    "fastvit", "mask_rcnn_scripts", "operators", "resume", "recipes", "distributed", "export", "fastervit", "litv2",
    "models", "detection", "segmentation_run", "dense_cases", "serving", "torch_file", "packaging",
)  # fmt: skip


def pytest_configure(config):
    """Let the processes of pytest-xdist allocate by jemalloc, which MindSpore brings: graphs compile faster with it.

    What the tests start allocates as it does for users. Graphs are not kept, unless a test asks for it or the variable
    is set: hardly any is compiled a second time, and one process at a time can read them.
    """
    os.environ.setdefault("MINDCV_MODELS_GRAPH_CACHE", "0")
    if hasattr(config, "workerinput"):
        os.environ.pop("LD_PRELOAD", None)
    elif config.getoption("numprocesses", None):
        library = Path(importlib.util.find_spec("mindspore").origin).parent / "lib" / "libjemalloc.so.2"
        if library.is_file():
            folder = Path(tempfile.mkdtemp(prefix="jemalloc-"))  # its path has no space, which would end it
            (folder / library.name).symlink_to(library)
            os.environ["LD_PRELOAD"] = str(folder / library.name)
            config.add_cleanup(functools.partial(shutil.rmtree, folder))


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
    from mindcv_models.training import report

    pictures = report.PICTURES
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "PICTURES", ())
        yield pictures


@pytest.fixture
def pictures(monkeypatch, no_pictures):
    """Reports have their pictures."""
    monkeypatch.setattr("mindcv_models.training.report.PICTURES", no_pictures)


@pytest.fixture(autouse=True)
def graph_mode():
    import mindspore as ms

    ms.set_context(mode=ms.GRAPH_MODE)


@pytest.fixture
def eager():
    """Operator by operator: nothing is compiled, which takes most of a test's time.

    Each operator ends before the next begins: otherwise four threads hand them on, and spin while they wait. A test
    that sets PyNative mode itself runs as users do.
    """
    import mindspore as ms

    ms.set_context(mode=ms.PYNATIVE_MODE, pynative_synchronize=True)
    yield
    ms.set_context(pynative_synchronize=False)


@pytest.fixture(params=["eager", pytest.param("compiled", marks=pytest.mark.slow)])
def both_modes(request):
    """Eagerly, and in the exhaustive run compiled as well."""
    if request.param == "eager":
        request.getfixturevalue("eager")


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """An image folder of 24 images of noise, the same ones to train and to validate."""
    from tests.helpers.images import noise_folder

    root = noise_folder(tmp_path_factory.mktemp("images"))
    shutil.copytree(root / "train", root / "val")
    return root

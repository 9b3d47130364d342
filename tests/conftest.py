"""What every test starts from: graph mode on the CPU, and errors from our own code's warnings."""

import shutil

import mindspore as ms
import pytest

from tests.helpers.images import noise_folder


@pytest.fixture(autouse=True)
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


@pytest.fixture
def eager():
    """Operator by operator: nothing is compiled, which takes most of a test's time."""
    ms.set_context(mode=ms.PYNATIVE_MODE)


@pytest.fixture(
    params=[
        pytest.param(ms.PYNATIVE_MODE, id="eager"),
        pytest.param(ms.GRAPH_MODE, id="compiled", marks=pytest.mark.slow),
    ]
)
def both_modes(request):
    """Eagerly, and in the exhaustive run compiled as well."""
    ms.set_context(mode=request.param)


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """An image folder of 24 images of noise, the same ones to train and to validate."""
    root = noise_folder(tmp_path_factory.mktemp("images"))
    shutil.copytree(root / "train", root / "val")
    return root

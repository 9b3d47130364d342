"""What every test starts from: graph mode on the CPU, and errors from our own code's warnings."""

import mindspore as ms
import pytest


@pytest.fixture(autouse=True)
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)

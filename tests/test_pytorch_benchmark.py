"""The comparison with PyTorch: its table, and what it says where PyTorch's side does not run."""

import pytest

from mindcv_models.benchmark import Job, Timing
from mindcv_models.errors import InputError
from tools.pytorch_benchmark import PeerProcess, processor, row_of


def test_a_row_pairs_the_turns_of_both_sides():
    job = Job("fastvit_t8", train=True, batch_size=4)
    ours = Timing(job, "CPU", first=3.0, latencies=[0.1, 0.2, 0.4], memory=250_000_000)
    peer = Timing(job, "CPU", first=0.25, latencies=[0.2, 0.2, 0.6], memory=None)
    assert row_of("eager", ours, peer) == {
        "model": "fastvit_t8",
        "what": "training",
        "batch": "4",
        "PyTorch": "eager",
        "PyTorch ms": "200.0 (200.0-400.0)",
        "ours ms": "200.0 (150.0-300.0)",
        "ratio": "1.50 (1.25-1.75)",
        "first s, PyTorch / ours": "0.2 / 3.0",
        "MB, PyTorch / ours": " / 250",
    }
    assert processor()


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        ("raise ModuleNotFoundError(name='torch')", InputError, "needs torch: pip install torch torchvision timm"),
        ("raise SystemError('no such instruction')", RuntimeError, "SystemError: no such instruction"),
    ],
)
@pytest.mark.process
def test_a_peer_that_does_not_run_is_one_line(code, error, message, tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(error, match=message):
        PeerProcess(Job("fastvit_t8", image_size=(32, 32)), compiled=False, threads=1)

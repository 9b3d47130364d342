"""What Prometheus reads at ``/metrics``, beside KServe's own histograms; of all processes together."""

import os
import tempfile

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

__all__ = ["BATCHES", "REQUESTS", "SECONDS", "WAITING", "exposition", "share_between_processes"]

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

REQUESTS = Counter("serve_requests", "answered requests", ["path", "status"])
SECONDS = Histogram("serve_request_seconds", "from a request's first byte to its answer", ["path"])
BATCHES = Histogram("serve_batch_rows", "images that went through the model together", buckets=[1, 2, 4, 8, 16, 32, 64])
WAITING = Gauge("serve_waiting_requests", "requests that are being answered", multiprocess_mode="livesum")


def share_between_processes() -> tempfile.TemporaryDirectory:
    """Processes that are started from here on add their figures up, in a folder that is kept until they end."""
    folder = tempfile.TemporaryDirectory(prefix="serve_metrics_")
    os.environ[VARIABLE] = folder.name
    return folder


def exposition() -> bytes:
    """All figures, as Prometheus reads them."""
    if VARIABLE not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    return generate_latest(registry)

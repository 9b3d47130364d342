"""Compare serve.py under load with ONNX Runtime alone, on the same images, batch and threads, decoding included.

    python tools/serving_benchmark.py --model_file fastvit_t8.onnx --images photos
    python tools/serving_benchmark.py --model_file fastvit_t8.onnx --images photos --rounds 1 --seconds 600

The client is wrk (`apt-get install wrk`), on the same machine: each of its connections sends one JPEG file after
another as a form, and waits for the answer. In turns with it, ONNX Runtime alone decodes the same files in threads and
runs them in batches. The table has both throughputs and their ratio; the processor's milliseconds for an image, alone
and of service and client together, and their ratio, which other work on the machine disturbs less; the service's
latencies, and its memory at the beginning and at the end of each round.
"""

import itertools
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import List, Tuple

import psutil

os.environ["MINDCV_MODELS_SERVING"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindcv_models.data.images import decode
from mindcv_models.errors import InputError, one_line
from mindcv_models.options import Group, option, parse
from mindcv_models.serving.answers import task_of
from mindcv_models.serving.model_file import ModelFile

del os.environ["MINDCV_MODELS_SERVING"]
ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("alone, images/s", "service, images/s", "ratio", "alone, CPU ms", "service, CPU ms", "ratio", "p50 ms",
           "p95 ms", "p99 ms", "failed", "MiB before", "MiB after")  # fmt: skip
SCRIPT = """
local bodies = {}
for path in io.lines(os.getenv("WRK_LIST")) do
  local file = io.open(path, "rb")
  table.insert(bodies, "--b\\r\\nContent-Disposition: form-data; name=\\"image\\"; filename=\\"a.jpg\\"\\r\\n" ..
    "Content-Type: image/jpeg\\r\\n\\r\\n" .. file:read("*a") .. "\\r\\n--b--\\r\\n")
  file:close()
end
local number = 0
request = function()
  number = number % #bodies + 1
  return wrk.format("POST", "/predict", {["Content-Type"] = "multipart/form-data; boundary=b"}, bodies[number])
end
done = function(summary, latency, requests)
  local bad = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.status +
    summary.errors.timeout
  io.write(string.format("RESULT %d %d %d %d %d %d\\n", summary.requests, summary.duration, bad,
    latency:percentile(50), latency:percentile(95), latency:percentile(99)))
end
"""


@dataclass
class Options(Group):
    model_file: str = option("", "an .onnx file of export.py", path=True)
    images: str = option("", "folder of JPEG files", path=True)
    max_batch: int = option(8, "images that go through the model together", at_least=1)
    threads: int = option(2, "threads of the model and of decoding", at_least=1)
    connections: int = option(32, "connections of the client", at_least=1)
    seconds: int = option(20, "of each measurement", at_least=1)
    rounds: int = option(3, "of measurements, in turns", at_least=1)


def files_of(options: Options) -> List[str]:
    """The paths of the images."""
    paths = sorted(map(str, Path(options.images or "none").glob("*.jpg")))
    if not Path(options.model_file).is_file():
        raise InputError(f"no file at {options.model_file!r}: give --model_file an .onnx file of export.py.")
    if not paths:
        raise InputError(f"no .jpg in {options.images!r}: give --images a folder of JPEG files.")
    if shutil.which("wrk") is None:
        raise InputError("wrk is not installed: apt-get install wrk.")
    return paths


def alone(options: Options, paths: List[str]) -> Tuple[float, float]:
    """Images a second of ONNX Runtime without a service, by the service's own preparation, and CPU seconds of one."""
    file = ModelFile(options.model_file, options.threads)
    task, endless = task_of(file), itertools.cycle(paths)

    def prepare(path):
        return task.prepare(decode(path))

    with ThreadPoolExecutor(options.threads) as pool:
        count, begin, used = -options.max_batch, time.perf_counter(), time.process_time()
        while time.perf_counter() - begin < options.seconds:
            file.run(list(pool.map(prepare, itertools.islice(endless, options.max_batch))))
            count += options.max_batch
            if count == 0:  # the first batch does not count
                begin, used = time.perf_counter(), time.process_time()
    return count / (time.perf_counter() - begin), (time.process_time() - used) / count


@contextmanager
def service(options: Options):
    """The port of a running service, and its process."""
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        port = own.getsockname()[1]
    given = {"model_file": options.model_file, "host": "127.0.0.1", "port": port, "max_batch": options.max_batch,
             "threads": options.threads}  # fmt: skip
    command = [sys.executable, str(ROOT / "serve.py")]
    for name, value in given.items():
        command += [f"--{name}", str(value)]
    server = subprocess.Popen(command)
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready")
                break
            except OSError:
                time.sleep(0.1)
        yield port, psutil.Process(server.pid)
    finally:
        server.terminate()
        server.wait()


def loaded(options: Options, port: int, folder: str) -> Tuple[float, List[float], int]:
    """Images a second under the client's load, the latencies p50, p95 and p99 in ms, and the failed requests."""
    script = Path(folder, "wrk.lua")
    script.write_text(SCRIPT, encoding="utf-8")
    command = ["wrk", "-t", "1", "-c", str(options.connections), "-d", f"{options.seconds}s", "--timeout", "30s",
               "-s", str(script), f"http://127.0.0.1:{port}"]  # fmt: skip
    environment = {**os.environ, "WRK_LIST": str(Path(folder, "list"))}
    text = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    requests, duration, bad, *latencies = map(int, re.search(r"RESULT (.*)", text)[1].split())
    return 1e6 * (requests - bad) / duration, [value / 1000 for value in latencies], bad


def cpu_seconds(server: psutil.Process) -> float:
    """What the service and all clients so far have used."""
    clients = resource.getrusage(resource.RUSAGE_CHILDREN)
    times = server.cpu_times()
    return times.user + times.system + clients.ru_utime + clients.ru_stime


def main() -> int:
    try:
        options = parse(Options, __doc__)
        paths = files_of(options)
    except InputError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    print("|", " | ".join(COLUMNS), "|\n" + "|---" * len(COLUMNS) + "|")
    with tempfile.TemporaryDirectory() as folder, service(options) as (port, server):
        Path(folder, "list").write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
        for _ in range(options.rounds):
            reference, own = alone(options, paths)
            before, used = server.memory_info().rss / 2**20, cpu_seconds(server)
            speed, latencies, bad = loaded(options, port, folder)
            after, its = server.memory_info().rss / 2**20, (cpu_seconds(server) - used) / (speed * options.seconds)
            figures = [f"{reference:.1f}", f"{speed:.1f}", f"{speed / reference:.2f}", f"{1000 * own:.1f}",
                       f"{1000 * its:.1f}", f"{own / its:.2f}", *(f"{x:.0f}" for x in latencies), str(bad)]  # fmt: skip
            print("|", " | ".join([*figures, f"{before:.0f}", f"{after:.0f}"]), "|", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Send damaged requests to a running serve.py, and see that it answers each and goes on.

    python serve.py --model_file fastvit_t8.onnx --host 127.0.0.1 &
    python tools/serving_fuzz.py --image photo.jpg --requests 10000

Valid requests (a form, a body, tensors as JSON and binary) are damaged: bytes are changed, removed, repeated and cut
off, in bodies and in headers. Some connections are closed in the middle. The requests follow from --seed. Answers of
status 500 and requests without an answer are printed, and the exit status is 1 if there is one, or if the service no
longer answers.
"""

import http.client
import json
import os
import random
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

os.environ["MINDCV_MODELS_SERVING"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindcv_models.errors import InputError, one_line
from mindcv_models.options import Group, option, parse

del os.environ["MINDCV_MODELS_SERVING"]
LENGTH = "Inference-Header-Content-Length"


@dataclass
class Options(Group):
    image: str = option("", "a picture that the service can decode", path=True)
    host: str = option("127.0.0.1", "where the service is: this machine")
    port: int = option(8080, "its port", at_least=1, at_most=65535)
    requests: int = option(10000, "how many", at_least=1)
    seed: int = option(0, "of what is damaged")

    def check(self) -> None:
        if self.host not in ("127.0.0.1", "localhost", "::1"):
            raise InputError(f"host is {self.host}, but only a service on this machine is to be tested.")


def seeds(connection: http.client.HTTPConnection, picture: bytes):
    """Valid requests: address, headers and body of each."""
    connection.request("GET", "/v2/models")
    (name,) = json.loads(connection.getresponse().read())["models"]
    connection.request("GET", f"/v2/models/{name}")
    inputs = json.loads(connection.getresponse().read())["inputs"]
    shapes = {each["name"]: [1 if side < 0 else side for side in each["shape"]] for each in inputs}
    few, text, tail = [], [], b""
    for key, shape in shapes.items():
        size = 1
        for side in shape:
            size *= side
        common = {"name": key, "shape": shape, "datatype": "FP32"}
        few.append({**common, "data": [0] * min(size, 999)})
        text.append({**common, "parameters": {"binary_data_size": 4 * size}})
        tail += bytes(4 * size)
    head = json.dumps({"inputs": text}).encode()
    form = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n' + picture + b"\r\n--b--\r\n"
    infer = f"/v2/models/{name}/infer"
    return [
        ("/predict", {"Content-Type": "multipart/form-data; boundary=b"}, form),
        ("/predict?topk=3", {"Content-Type": "image/jpeg"}, picture),
        (infer, {"Content-Type": "application/json"}, json.dumps({"inputs": few}).encode()),
        (infer, {LENGTH: str(len(head))}, head + tail),
    ]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, removed, repeated or cut off; most often near the beginning, where the headers are."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        if not data:
            break
        place = min(int(rng.expovariate(1 / 200)), len(data) - 1) if rng.random() < 0.7 else rng.randrange(len(data))
        kind = rng.randrange(5)
        if kind == 0:
            data[place] = rng.randrange(256)
        elif kind == 1:
            del data[place : place + rng.randint(1, 64)]
        elif kind == 2:
            data[place:place] = data[place : place + rng.randint(1, 64)]
        elif kind == 3:
            data[place:place] = rng.choice(
                [b"9" * 30, b"-1", b"[", b"{", b'"', b"null", b"\0", b"\r\n", b"\xff\xff\xff\xff"]
            )
        elif rng.random() < 0.3:
            del data[place:]
    return bytes(data)


def answer_of(connection, address, headers, body, rng: random.Random) -> int:
    """The status of the answer to a damaged request; 0 where the client leaves before it."""
    headers = {key: damaged(value.encode(), rng).decode("latin-1") if rng.random() < 0.2 else value
               for key, value in headers.items()}  # fmt: skip
    headers = {key: value.translate({10: 32, 13: 32, 0: 32}) for key, value in headers.items()}
    body = damaged(body, rng)
    if rng.random() < 0.02:
        connection.putrequest("POST", address)
        connection.putheader("Content-Length", str(len(body) + 10))
        connection.endheaders(body[: len(body) // 2])
        connection.close()
        return 0
    connection.request("POST", address, body, headers)
    answer = connection.getresponse()
    text = answer.read()
    if answer.status >= 400 and b"\n" in text:
        raise ValueError(f"an error of several lines: {text[:200]!r}")
    return answer.status


def main() -> int:
    try:
        options = parse(Options, __doc__)
        if not Path(options.image).is_file():
            raise InputError(f"no file at {options.image!r}: give --image a picture.")
        connection = http.client.HTTPConnection(options.host, options.port, timeout=60)
        requests = seeds(connection, Path(options.image).read_bytes())
    except (InputError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    rng, counts, failed = random.Random(options.seed), Counter(), 0
    for number in range(options.requests):
        address, headers, body = rng.choice(requests)
        try:
            status = answer_of(connection, address, headers, body, rng)
        except (http.client.HTTPException, OSError, ValueError) as error:
            status = type(error).__name__
            connection.close()
        counts[status] += 1
        if status not in (0, 200, 408, 413, 503) and not (isinstance(status, int) and 400 <= status < 500):
            failed += 1
            print(f"request {number} to {address}: {status}", flush=True)
    print(", ".join(f"{status}: {count}" for status, count in sorted(counts.items(), key=str)))
    connection.close()
    connection.request("POST", requests[1][0], requests[1][2], requests[1][1])
    return 1 if failed or connection.getresponse().status != 200 else 0


if __name__ == "__main__":
    sys.exit(main())

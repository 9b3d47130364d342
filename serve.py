"""Serve an exported ONNX file over HTTP: pictures to classes, boxes, masks or maps, and tensors to tensors.

python serve.py --model_file fastvit_sa12.onnx
python serve.py --model_file retinanet.onnx --port 9000 --workers 2
curl -F image=@photo.jpg http://127.0.0.1:8080/predict

Preparation and class names come from the file. A page to drop pictures on is at /, the Open Inference Protocol v2 below
/v2, health at /v2/health/live and /v2/health/ready, Prometheus metrics at /metrics. Needs the extra `serve`.
"""

import logging
import os
import sys

os.environ["MINDCV_MODELS_SERVING"] = "1"  # neither MindSpore nor the models are imported

from mindcv_models.errors import InputError, one_line
from mindcv_models.options import parse
from mindcv_models.serving.options import ServeOptions

del os.environ["MINDCV_MODELS_SERVING"]


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        options = parse(ServeOptions, __doc__)
        sys.argv[1:] = []  # KServe reads the command line too, when it is imported
        from mindcv_models.serving.server import serve

        serve(options)
    except InputError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except ImportError as error:
        print(f"error: {one_line(error)}: pip install -r requirements-serve.txt", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

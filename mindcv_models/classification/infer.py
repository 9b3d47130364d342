"""``infer.py`` for classifiers: the most probable classes of images, as a table, JSON or CSV, and activation maps."""

import sys
from pathlib import Path
from typing import Sequence

from mindspore import nn

from ..cells import cast_network
from ..checkpoint import creator, load_weights
from ..evaluation import csv_text, json_text
from ..input_size import explain_size_errors
from ..process import log_to_stderr, output_folder, set_up
from ..reparameterize import reparameterize
from .cam import draw_activations
from .names import find_class_names
from .options import InferOptions
from .predict import VIEWS, Predictor
from .ranking import best, probabilities
from .transforms import EvalTransform

__all__ = ["run"]


def run(options: InferOptions, paths: Sequence[str]) -> int:
    """Predict the images at ``paths`` and print the results; 1 if an image could not be decoded.

    Raises:
        InputError: the checkpoint or the class names are missing, damaged or of something else.
    """
    folder = output_folder(options.cam, "cam") if options.cam else None
    set_up(options.alone)
    log_to_stderr()
    checkpoint = Path(options.ckpt_path) if options.ckpt_path else None
    names = find_class_names(options.class_names, checkpoint, options.num_classes)
    network = load_network(options, len(names))
    network = cast_network(
        reparameterize(network, inplace=True) if options.reparam else network, options.amp_level, options.amp_cast_list
    )
    batch, transform = min(options.batch_size, len(paths)), EvalTransform.resolve(options)
    predictor = Predictor(
        network, len(names), transform, batch, options.num_parallel_workers, VIEWS[options.tta], options.upright
    )
    with explain_size_errors([(options.model, network)], transform.size):
        logits, bad = predictor.run(paths)
    for number, reason in bad.items():
        print(f"cannot decode {paths[number]}: {reason}", file=sys.stderr)
    scores = probabilities(logits)
    results = [
        {"image": path, **({"error": bad[i]} if i in bad else {"classes": best(scores[i], names, options.topk)})}
        for i, path in enumerate(paths)
    ]
    sys.stdout.write({"table": as_table, "json": as_json, "csv": as_csv}[options.format](results))
    good = [i for i in range(len(paths)) if i not in bad]
    if folder and good:
        draw_activations(
            network, [paths[i] for i in good], scores[good], names, transform, batch, folder, options.upright
        )
    return 1 if bad else 0


def load_network(options: InferOptions, classes: int) -> nn.Cell:
    network = creator(options)(num_classes=classes, **(options.model_kwargs or {}))
    if options.ckpt_path:
        load_weights(network, options.ckpt_path, options.load_ema)
    return network


def as_table(results):
    lines = []
    for result in results:
        lines.append(result["image"])
        lines += [f"  {100 * c['probability']:6.2f} %  {c['class']}" for c in result.get("classes", ())]
        lines += [f"  cannot be decoded: {result['error']}"] if "error" in result else []
    return "\n".join(lines) + "\n"


def as_json(results):
    return json_text(results, indent=2)


def as_csv(results):
    rows = (
        {"image": result["image"], "rank": rank, **c}
        for result in results
        for rank, c in enumerate(result.get("classes", ()), 1)
    )
    return csv_text(("image", "rank", "class", "label", "probability"), rows)

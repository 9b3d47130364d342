"""Say what is on images: the most probable classes of each, and where the network sees them.

python infer.py --model fastvit_t8 --ckpt_path fastvit_t8.safetensors --images samples
python infer.py -c outputs/run/config.yaml --ckpt_path outputs/run/fastvit_t8_best.ckpt --images 'photos/*.jpg' folder
python infer.py ... --images photo.jpg --topk 3 --format json --cam cam

`samples` are the two photographs that scikit-learn brings. The exit status is 1 if an image could not be decoded.
"""

import csv
import glob
import io
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")  # read when MindSpore is imported: errors only, not its notes on itself

from mindcv_models import create_model, reparameterize
from mindcv_models.cells import cast_network
from mindcv_models.checkpoint import load_weights
from mindcv_models.classification.cam import draw_activations
from mindcv_models.classification.names import find_class_names
from mindcv_models.classification.options import InferOptions
from mindcv_models.classification.predict import VIEWS, Predictor, probabilities
from mindcv_models.classification.transforms import EvalTransform
from mindcv_models.data.files import IMAGE_SUFFIXES
from mindcv_models.errors import InputError
from mindcv_models.input_size import refused_sizes
from mindcv_models.options import System, parse
from mindcv_models.process import output_folder, run, set_up

SUFFIXES = (*IMAGE_SUFFIXES, ".webp", ".tif", ".tiff")


def main():
    options = parse(InferOptions, __doc__)
    paths = [path for given in options.images for path in find_images(given)]
    folder = output_folder(options.cam, "cam") if options.cam else None
    set_up(System(options.mode, options.device_target))
    names = find_class_names(options.class_names, Path(options.ckpt_path), options.num_classes)
    network = create_model(options.model, num_classes=len(names), **(options.model_kwargs or {}))
    load_weights(network, options.ckpt_path, options.averages)
    network = cast_network(
        reparameterize(network) if options.reparam else network, options.amp_level, options.amp_cast_list
    )
    batch, transform = min(options.batch_size, len(paths)), EvalTransform.resolve(options)
    predictor = Predictor(
        network, len(names), transform, batch, options.num_parallel_workers, VIEWS[options.tta], upright=True
    )
    with refused_sizes([(options.model, network)], transform.size):
        logits, bad = predictor.run(paths)
    for number, reason in bad.items():
        print(f"cannot decode {paths[number]}: {reason}", file=sys.stderr)
    shares = probabilities(logits)
    results = [
        {"image": path, **({"error": bad[i]} if i in bad else {"classes": best(shares[i], names, options.topk)})}
        for i, path in enumerate(paths)
    ]
    sys.stdout.write({"table": as_table, "json": as_json, "csv": as_csv}[options.format](results))
    good = [i for i in range(len(paths)) if i not in bad]
    if folder and good:
        draw_activations(network, [paths[i] for i in good], shares[good], names, transform, batch, folder)
    return 1 if bad else 0


def find_images(given):
    """The image files that a path, a folder (with all below it), a glob or ``samples`` stands for."""
    if given.is_file():
        return [str(given)]
    if given.is_dir():
        found = sorted(str(p) for p in given.rglob("*") if p.suffix.lower() in SUFFIXES)
    elif str(given) == "samples":
        from sklearn.datasets import load_sample_images

        found = load_sample_images().filenames
    else:
        found = sorted(path for path in glob.glob(str(given), recursive=True) if os.path.isfile(path))
    if not found:
        raise InputError(f"no image at {given}: give a file, a folder with images, a glob in quotes, or samples.")
    return found


def best(shares, names, count):
    order = (-shares).argsort(kind="stable")[:count]
    return [{"class": names[i], "label": int(i), "probability": round(float(shares[i]), 6)} for i in order]


def as_table(results):
    lines = []
    for result in results:
        lines.append(result["image"])
        lines += [f"  {100 * c['probability']:6.2f} %  {c['class']}" for c in result.get("classes", ())]
        lines += [f"  cannot be decoded: {result['error']}"] if "error" in result else []
    return "\n".join(lines) + "\n"


def as_json(results):
    return json.dumps(results, indent=2, ensure_ascii=False) + "\n"


def as_csv(results):
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "rank", "class", "label", "probability"])
    for result in results:
        for rank, c in enumerate(result.get("classes", ()), 1):
            writer.writerow([result["image"], rank, c["class"], c["label"], c["probability"]])
    return text.getvalue()


if __name__ == "__main__":
    run(main)

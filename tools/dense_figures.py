"""Draw the pictures of the guides: the learning curve of a detector's or segmenter's run, and sixteen predictions.

python tools/dense_figures.py --run outputs/retinanet_fastvit_t8_digits --output_dir docs/images
"""

import csv
import os
import sys
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")  # read when MindSpore is imported: errors only, not its notes on itself
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image

from mindcv_models.checkpoint import load_weights
from mindcv_models.data.images import decode
from mindcv_models.detection.draw import draw_detections
from mindcv_models.detection.infer import predict
from mindcv_models.distributed import ONE_DEVICE
from mindcv_models.errors import InputError
from mindcv_models.evaluation import new_figure, save_figure
from mindcv_models.files import atomic_write
from mindcv_models.models.registry import config_of
from mindcv_models.options import Group, option, parse, peek
from mindcv_models.process import output_folder, run, set_up
from mindcv_models.segmentation.draw import draw_labels
from mindcv_models.tasks import task_of
from mindcv_models.training.build import create_network

SIDE, ENLARGED = 4, 2  # pictures in a row, and their factor
SCORES = ("box_ap", "box_ap50", "mask_ap", "mask_ap50", "miou", "pixel_accuracy")


@dataclass
class FigureOptions(Group):
    """Which run, and where its pictures go."""

    title = "Figures"

    run: str = option("outputs/retinanet_fastvit_t8_digits", "folder of a run of train.py", path=True)
    output_dir: str = option("docs/images", "folder of the pictures", path=True)
    score: float = option(0.4, "detectors: least score that is drawn", at_least=0, below=1)


def main():
    options = parse(FigureOptions, __doc__)
    folder, output = Path(options.run), output_folder(options.output_dir, "output_dir")
    config = ["--config", str(folder / "config.yaml"), "--distribute", "False"]
    task = task_of(peek("model", config))
    given = parse(task.train_options, "", config)
    set_up(given)
    given = task.prepare(given, ONE_DEVICE)
    plot_run(folder / "results.csv", output / f"{given.model}_curve.png")
    network = create_network(given).set_train(False)
    load_weights(network, str(best_checkpoint(folder)), None)
    validator = task.validator(given, network, ONE_DEVICE)
    names = (folder / "classes.txt").read_text(encoding="utf-8").split("\n")[:-1]
    if config_of(given.model).task == "segmentation":
        tiles = [segmented(validator, k, names) for k in range(SIDE * SIDE)]
    else:
        tiles = [detected(validator, k, names, options.score) for k in range(SIDE * SIDE)]
    with atomic_write(output / f"{given.model}_predictions.jpg") as partial:
        montage(tiles).save(partial, format="JPEG", quality=80, optimize=True)


def best_checkpoint(folder: Path) -> Path:
    found = sorted(folder.glob("*best*.ckpt"))
    if not found:
        raise InputError(f"{folder} has no best checkpoint: give run the folder of a run of train.py that validated.")
    return found[0]


def detected(validator, index: int, names, score: float) -> Image.Image:
    """Validation image ``index``, enlarged, with the boxes and masks that are found on it."""
    found, pixels, _ = predict(validator.detector, validator.data.name(index), validator.transform)
    large = Image.fromarray(pixels).resize((pixels.shape[1] * ENLARGED, pixels.shape[0] * ENLARGED))
    return draw_detections(np.asarray(large), found._replace(boxes=found.boxes * ENLARGED), names, score)


def segmented(validator, index: int, names) -> Image.Image:
    """Validation image ``index`` with its classes in colour, and a legend."""
    pixels = decode(validator.pictures.name(index))
    (labels,) = validator.inference([pixels])
    return Image.fromarray(draw_labels(pixels, labels, names))


def montage(tiles, gap=6) -> Image.Image:
    """The pictures in a square."""
    width, height = (max(tile.size[k] for tile in tiles) + gap for k in range(2))
    sheet = Image.new("RGB", (SIDE * width - gap, SIDE * height - gap), "white")
    for k, tile in enumerate(tiles):
        sheet.paste(tile, (k % SIDE * width, k // SIDE * height))
    return sheet


def plot_run(results: Path, path: Path) -> None:
    """Draw the losses and the scores of a run's ``results.csv`` by epoch."""
    with open(results, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    figure = new_figure(8, 3.6)
    left, right = figure.subplots(1, 2)
    losses = [name for name in rows[0] if name.startswith("train_") and not name.endswith("accuracy")]
    scores = [name for name in SCORES if name in rows[0]]
    for axes, names, free in ((left, losses, "upper right"), (right, scores, "lower right")):
        for name in names:
            points = [(int(row["epoch"]), float(row[name])) for row in rows if row[name]]
            axes.plot(*zip(*points), ".-", label=name)
        axes.grid(alpha=0.3)
        axes.legend(loc=free)
    left.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
    right.set(xlabel="epoch", ylabel="share", xlim=left.get_xlim(), ylim=(0, 1))
    save_figure(figure, path)


if __name__ == "__main__":
    run(main)

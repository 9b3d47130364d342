"""Draw the pictures of the guide to detection: a run's learning curve, and sixteen of its predictions.

python tools/detection_figures.py --run outputs/retinanet_fastvit_t8_digits --output_dir docs/images
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
from mindcv_models.detection.data import eval_transform, read_split
from mindcv_models.detection.draw import draw_detections
from mindcv_models.detection.infer import predict
from mindcv_models.detection.options import TrainOptions
from mindcv_models.detection.validate import build
from mindcv_models.evaluation import new_figure, save_figure
from mindcv_models.options import Group, option, parse
from mindcv_models.process import run

SIDE, ENLARGED = 4, 2  # pictures in a row, and their factor


@dataclass
class FigureOptions(Group):
    """Which run, and where its pictures go."""

    title = "Figures"

    run: str = option("outputs/retinanet_fastvit_t8_digits", "folder of a run of train.py", path=True)
    output_dir: str = option("docs/images", "folder of the pictures", path=True)
    score: float = option(0.4, "least score that is drawn", at_least=0, below=1)


def main():
    options = parse(FigureOptions, __doc__)
    folder, output = Path(options.run), Path(options.output_dir)
    plot_run(folder / "results.csv", output / "detection_curve.png")
    given = parse(TrainOptions, "", ["--config", str(folder / "config.yaml"), "--distribute", "False"])
    data = read_split(given, "val")
    network = build(given, len(data.categories)).set_train(False)
    load_weights(network, str(sorted(folder.glob("*best*.ckpt"))[0]), None)
    names = [category.name for category in data.categories]
    tiles = []
    for k in range(SIDE * SIDE):
        found, pixels, _ = predict(network, data.name(k), eval_transform(given), given.limits)
        large = Image.fromarray(pixels).resize((pixels.shape[1] * ENLARGED, pixels.shape[0] * ENLARGED))
        found = found._replace(boxes=found.boxes * ENLARGED)
        tiles.append(draw_detections(np.asarray(large), found, names, options.score))
    montage(tiles).save(output / "detection_predictions.png", optimize=True)


def montage(tiles, gap=6):
    width, height = (max(tile.size[k] for tile in tiles) + gap for k in range(2))
    sheet = Image.new("RGB", (SIDE * width - gap, SIDE * height - gap), "white")
    for k, tile in enumerate(tiles):
        sheet.paste(tile, (k % SIDE * width, k // SIDE * height))
    return sheet


def plot_run(results, path):
    with open(results, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    figure = new_figure(8, 3.6)
    left, right = figure.subplots(1, 2)
    for name in ("train_cls", "train_box"):
        left.plot([int(row["epoch"]) for row in rows], [float(row[name]) for row in rows], "o-", label=name)
    validated = [row for row in rows if row.get("box_ap")]
    for name in ("box_ap", "box_ap50", "box_ap75"):
        right.plot([int(row["epoch"]) for row in validated], [float(row[name]) for row in validated], "o-", label=name)
    left.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
    right.set(xlabel="epoch", ylabel="share", ylim=(0, 1))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    save_figure(figure, path)


if __name__ == "__main__":
    run(main)

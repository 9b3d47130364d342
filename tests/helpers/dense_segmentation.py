"""Reference cases of Semantic FPN: the network, its loss, whole-image inference, mean IoU."""

from typing import Iterator

import mindspore as ms
import numpy as np
from mindspore import nn

from mindcv_models.data.geometry import fitted_size, resize_labels
from mindcv_models.data.photometric import rotate_hue, saturate, shift, stretch
from mindcv_models.segmentation.inference import Inference, InferenceSettings, View, enlarged_planes
from mindcv_models.segmentation.metrics import Scores, confusion_matrix
from mindcv_models.segmentation.objective import SegmentationObjective
from mindcv_models.segmentation.transforms import IGNORED, target_size
from tests.helpers import dense
from tests.helpers.dense import Case, Difference, compare, compare_array, exact, kind

STRIDES = (4, 8, 16, 32)


def build(case: Case, **options) -> nn.Cell:
    window = {"window_size": case["window"]} if "window" in case.entry else {}
    return dense.build(case, "semantic_fpn", **window, **options)


class Outputs(nn.Cell):
    """The logits and the pyramid's maps."""

    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, x):
        maps = self.network.neck(self.network.backbone(x))
        return self.network.decode_head(maps), maps


@kind("semantic_fpn_forward")
def forward(case: Case) -> Iterator[Difference]:
    logits, maps = Outputs(build(case)).set_train(False)(dense.images(case))
    yield from compare_array(case, "logits", logits.asnumpy(), 3e-4)
    for stride, values in zip(STRIDES, maps):
        yield from compare_array(case, f"fpn_{stride}", values.asnumpy(), 3e-4)


def label_maps(raw: np.ndarray) -> np.ndarray:
    """The labels of a case, 255 for pixels that do not count, as this project has them."""
    return np.where(raw == 255, IGNORED, raw.astype(np.int32)).astype(np.int32)


@kind("semantic_fpn_loss")
def loss(case: Case) -> Iterator[Difference]:
    network = build(case, drop_rate=0.0)
    objective = SegmentationObjective(network)

    def losses(images, labels):
        total, parts = objective(images, labels)
        return total, ms.ops.stack((total, *parts))

    step = dense.UpdateStep(network, losses, dense.adamw(network, case["lr"]))
    images, labels = dense.images(case), ms.Tensor(label_maps(case.arrays["labels"]))
    reference, first = case.arrays["losses"].astype(np.float64), None
    for index, (expected, accuracy) in enumerate(reference):
        values, norms = (output.asnumpy() for output in step(images, labels))
        relative = abs(values[0] - expected) / max(expected, 1e-6)
        yield Difference(f"loss {index}", relative, 1e-2 if index else 1e-4)
        if index == 0:
            first = norms
            yield compare("pixel accuracy", 100 * values[1], accuracy, 100 / case.arrays["labels"].size)
            yield from dense.compare_statistics(case, network)
    if "loss_if_all_ignored" in case.entry:
        ignored, _ = step(images, ms.ops.full_like(labels, IGNORED))
        yield exact("loss if all is ignored", float(ignored[0]), case["loss_if_all_ignored"])
    yield from dense.compare_gradients(case, step, (images, labels), first)


@kind("semantic_fpn_infer")
def infer(case: Case) -> Iterator[Difference]:
    network, images = build(case), dense.images(case)
    logits = network(images).asnumpy()
    yield from compare_array(case, "head_logits", logits, 3e-4)
    predicted, planes = [], []
    inference = Inference(network, InferenceSettings(None, (0, 0, 0), (1, 1, 1)))
    for pixels, own in zip(images.asnumpy(), logits):
        view = View(pixels, pixels.shape[1:], False)
        planes.append(np.stack(list(enlarged_planes([(view, own)], case["ori_shape"]))))
        predicted.append(inference.label_map([view], [own], tuple(case["ori_shape"])))
    yield from compare_array(case, "logits", np.stack(planes), 3e-4)
    clear = ~np.unpackbits(case.arrays["near_tie"])[: predicted[0].size].astype(bool)
    yield exact("classes", predicted[0].reshape(-1)[clear], case.arrays["pred"].reshape(-1)[clear])


@kind("miou")
def miou(case: Case) -> Iterator[Difference]:
    total, count = 0, sum(name.startswith("label_") for name in case.arrays)
    for index in range(count):
        raw = case.arrays[f"label_{index}"].astype(np.int32)
        labels = np.where((raw == 0) | (raw == 255), IGNORED, raw - 1)
        total = total + confusion_matrix(labels, case.arrays[f"pred_{index}"], case["num_classes"])
    scores = Scores(total)
    for name, values in (("iou", scores.iou), ("acc", scores.accuracy)):
        reference = case.arrays[name]
        yield exact(f"classes without {name}", np.isnan(values), np.isnan(reference))
        yield compare(name, np.nan_to_num(values, nan=-1), np.nan_to_num(reference, nan=-1), 1e-6)
    for name, own in (("mIoU", "miou"), ("mAcc", "mean_accuracy"), ("aAcc", "pixel_accuracy")):
        yield compare(name, scores.values[own], case[name], 1e-9)


PHOTOMETRIC = {"brightness": shift, "contrast": stretch, "saturation": saturate, "hue": rotate_hue}


@kind("preprocessing")
def preprocessing(case: Case) -> Iterator[Difference]:
    """What segmentation does; sizes are width and height in the reference, and images are BGR."""
    given = case.arrays
    sizes = [fitted_size(height, width, (2048, 512)) for width, height in given["sizes"].tolist()]
    yield exact("seg_new", [size[::-1] for size in sizes], given["seg_new"])
    factors = [np.float32([w / ow, h / oh] * 2) for (h, w), (ow, oh) in zip(sizes, given["sizes"].tolist())]
    yield exact("seg_scale_factor", factors, given["seg_scale_factor"])
    for ratio, expected in zip(given["seg_ratios"].tolist(), given["seg_ratio_new"].tolist()):
        found = [target_size(h, w, (2048, 512), ratio)[::-1] for w, h in ((683, 512), (500, 375), (256, 400))]
        yield exact(f"seg_ratio_new at {ratio:.3f}", found, expected)
    yield exact("resized_label", resize_labels(given["label"], *given["resized"].shape[:2]), given["resized_label"])
    image = np.ascontiguousarray(given["image"][..., ::-1])
    for name, draw in case["photo_draws"].items():
        changed = PHOTOMETRIC[name.split("_")[0]](image, draw["amount"])
        yield compare(f"photo_{name}", changed[..., ::-1], given[f"photo_{name}"], 1)
    for name, draws in case["photo_all"].items():
        changed = image
        for operation, amount in draws.items():
            changed = PHOTOMETRIC[operation](changed, amount)
        yield compare(f"photo_all_{name}", changed[..., ::-1], given[f"photo_all_{name}"], 3)

"""Published top-1 accuracy in percent on ImageNet-1K's validation images, with its source."""

from dataclasses import dataclass
from typing import Dict

__all__ = ["PUBLISHED", "Published"]


@dataclass(frozen=True)
class Published:
    """Top-1 accuracy of ``model`` in percent; models of one ``series`` belong together."""

    series: str
    top1: float
    source: str


_FASTVIT = "Vasu et al., FastViT, ICCV 2023, without distillation"
_FASTERVIT = "Hatamizadeh et al., FasterViT, ICLR 2024"
_LITV2 = "Pan et al., LITv2 (HiLo attention), NeurIPS 2022"
_MINDCV = "MindCV's benchmark results, trained on Ascend 910"

PUBLISHED: Dict[str, Published] = {
    "fastvit_t8": Published("FastViT", 76.2, _FASTVIT),
    "fastvit_t12": Published("FastViT", 79.3, _FASTVIT),
    "fastvit_s12": Published("FastViT", 79.9, _FASTVIT),
    "fastvit_sa12": Published("FastViT", 80.9, _FASTVIT),
    "fastvit_sa24": Published("FastViT", 82.7, _FASTVIT),
    "fastvit_sa36": Published("FastViT", 83.6, _FASTVIT),
    "fastvit_ma36": Published("FastViT", 83.9, _FASTVIT),
    "faster_vit_0_224": Published("FasterViT", 82.1, _FASTERVIT),
    "faster_vit_1_224": Published("FasterViT", 83.2, _FASTERVIT),
    "faster_vit_2_224": Published("FasterViT", 84.2, _FASTERVIT),
    "faster_vit_3_224": Published("FasterViT", 84.9, _FASTERVIT),
    "faster_vit_4_224": Published("FasterViT", 85.4, _FASTERVIT),
    "faster_vit_5_224": Published("FasterViT", 85.6, _FASTERVIT),
    "faster_vit_6_224": Published("FasterViT", 85.8, _FASTERVIT),
    "litv2_s": Published("LITv2", 82.0, _LITV2),
    "litv2_m": Published("LITv2", 83.3, _LITV2),
    "litv2_b": Published("LITv2", 83.6, _LITV2),
    "litv2_b_384": Published("LITv2", 84.7, _LITV2),
    "resnet50": Published("MindCV's others", 76.69, _MINDCV),
    "poolformer_s12": Published("MindCV's others", 77.33, _MINDCV),
    "swin_tiny": Published("MindCV's others", 80.82, _MINDCV),
    "convnext_tiny": Published("MindCV's others", 81.91, _MINDCV),
    "pvt_v2_b2": Published("MindCV's others", 82.0, "Wang et al., PVT v2, Computational Visual Media 2022"),
}

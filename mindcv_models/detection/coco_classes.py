"""COCO's 80 classes, in the order of the labels."""

from typing import List, Optional

__all__ = ["COCO_CLASSES", "published_names"]

COCO_CLASSES = tuple(
    name.strip()
    for name in """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
    parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
    handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
    surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
    broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv,
    laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase,
    scissors, teddy bear, hair drier, toothbrush
""".split(",")
)


def published_names(options) -> Optional[List[str]]:
    """What the classes of published weights are called: COCO's names, or numbers where there are others.

    None if the options name a checkpoint or a list of names.
    """
    if not options.wants_published or options.class_names:
        return None
    if options.num_classes in (None, len(COCO_CLASSES)):
        return list(COCO_CLASSES)
    return [str(k) for k in range(options.num_classes)]

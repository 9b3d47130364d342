"""Say what is on images: the most probable classes of each, and where the network sees them.

python infer.py --model fastvit_sa12 --pretrained True --images photo.jpg
python infer.py --model fastvit_t8 --ckpt_path fastvit_t8.safetensors --images samples
python infer.py -c outputs/run/config.yaml --ckpt_path outputs/run/fastvit_t8_best.ckpt --images 'photos/*.jpg' folder
python infer.py ... --images photo.jpg --topk 3 --format json --cam cam

`samples` are the two photographs that scikit-learn brings. The exit status is 1 if an image could not be decoded.
"""

import prologue

if __name__ == "__main__":
    prologue.begin()

from mindcv_models.data.files import find_images
from mindcv_models.options import parse, peek
from mindcv_models.process import run
from mindcv_models.tasks import task_of


def main():
    task = task_of(peek("model"))
    options = parse(task.infer_options, __doc__)
    return task.infer(options, [path for given in options.images for path in find_images(given)])


if __name__ == "__main__":
    run(main)

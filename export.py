"""Export a trained network for other runtimes, by the suffix of --output: ONNX or MINDIR.

python export.py --model fastvit_t8 --ckpt_path outputs/fastvit_t8/fastvit_t8_best.ckpt --output fastvit_t8.onnx
python export.py --model fastvit_t8 --ckpt_path fastvit_t8.safetensors --output fastvit_t8.mindir --batch_size 8
python export.py --model faster_vit_0_any_res --ckpt_path FILE --output faster_vit.onnx --image_resize 576 960

The network is fused first. The file is written aside, reloaded by ONNX Runtime or MindSpore and compared with the
network on photographs and noise; if an output differs by more than 1e-4, nothing is kept and the exit status is 1.
How to prepare images, and the names of the classes, are in the file as JSON under the key "mindcv_models": in an ONNX
file's metadata_props, in a MINDIR's user_info.
"""

import prologue

if __name__ == "__main__":
    prologue.begin()

from mindcv_models.options import parse, peek
from mindcv_models.process import run
from mindcv_models.tasks import task_of


def main():
    task = task_of(peek("model"))
    task.export(parse(task.export_options, __doc__))


if __name__ == "__main__":
    run(main)

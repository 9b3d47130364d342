"""Validate checkpoints: top-1, top-5 and loss, each image counted once; reports, benchmarks and test-time augmentation.

python validate.py -c configs/fastvit/fastvit_t8_ascend.yaml --data_dir DIR --ckpt_path FILE --distribute False
python validate.py -c ... --data_dir DIR --ckpt_path A B C --distribute False --reparam True --report_dir report
mpirun -n 8 python validate.py -c ... --data_dir DIR --ckpt_path FILE
"""

import prologue

if __name__ == "__main__":
    prologue.begin()

from mindcv_models.options import parse, peek
from mindcv_models.process import run
from mindcv_models.tasks import task_of


def main():
    task = task_of(peek("model"))
    task.validate(parse(task.validate_options, __doc__))


if __name__ == "__main__":
    run(main)

"""train.py that gets SIGTERM, on every rank, before the second batch of its second epoch."""

import os
import signal

import train
from mindcv_models.data.loader import Loader


def main():
    original = Loader.epoch

    def epoch(self, number=1, start=0):
        for step, batch in enumerate(original(self, number, start), start):
            if (number, step) == (2, 1):
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    Loader.epoch = epoch
    try:
        return train.main()
    finally:
        Loader.epoch = original

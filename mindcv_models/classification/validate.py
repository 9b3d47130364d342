"""``validate.py`` for classifiers: the metrics of checkpoints, or of their average, and their reports."""

import logging
from pathlib import Path

from mindspore import Tensor

from ..cells import cast_network
from ..checkpoint import creator, load_average, load_weights, save_checkpoint
from ..evaluation import csv_table, markdown_table
from ..files import write_text
from ..input_size import explain_size_errors
from ..process import output_folder, set_up
from ..reparameterize import reparameterize
from .options import ValidateOptions
from .study import ValidationRun

__all__ = ["run"]

logger = logging.getLogger("validate")


def run(options: ValidateOptions) -> None:
    """Validate every checkpoint of the options, and log and write their table.

    Raises:
        InputError: the data or a checkpoint is missing, damaged or of something else.
    """
    folder = output_folder(options.report_dir, "report_dir") if options.report_dir else None
    world = set_up(options)
    validation = ValidationRun(options, world)
    network = creator(options)(
        num_classes=validation.options.num_classes, in_channels=options.in_channels, **(options.model_kwargs or {})
    )
    own = validation.transform
    logger.info("%s at %s, crop %g, %s%s", options.model, own.image_resize, own.crop_pct, own.interpolation,
                ", reparameterized" if options.reparam else "")  # fmt: skip
    evaluated, rows = None, []
    for name in load_each(network, options, world):
        form = reparameterize(network) if options.reparam else network
        if evaluated is None:
            evaluated = cast_network(form, options.amp_level, options.amp_cast_list)
            validate = validation.validator(evaluated)
        elif form is not evaluated:  # new weights in the graph that is compiled already
            for parameter, value in zip(evaluated.get_parameters(), form.get_parameters()):
                parameter.set_data(Tensor(value.asnumpy(), parameter.dtype))
        with explain_size_errors([(options.model, evaluated)], own.size, options.in_channels):
            rows.append({"checkpoint": name, **validate(name)})
    if len(rows) > 1 or "images" not in rows[0]:
        logger.info("%s", markdown_table(rows))
    if folder and world.is_main:
        write_text(folder / "results.csv", csv_table(rows))
        write_text(folder / "results.md", markdown_table(rows))


def load_each(network, options, world):
    """Names of what is to be validated, one after another, each loaded into ``network`` when it is its turn."""
    if options.wants_published:
        yield options.tagged_model
        return
    if options.average:
        logger.info("loaded %s", load_average(network, options.ckpt_path, options.load_ema))
        if options.average_path and world.is_main:
            save_checkpoint(network.get_parameters(), Path(options.average_path))
        yield "average"
        return
    stems = [path.stem for path in options.ckpt_path]
    for path in options.ckpt_path:
        logger.info("loaded %s", load_weights(network, str(path), options.load_ema))
        yield path.stem if stems.count(path.stem) == 1 else "_".join(path.with_suffix("").parts).lstrip("/_")

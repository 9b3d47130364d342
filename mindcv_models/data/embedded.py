"""Data sets that come with the project: written where they are asked for, once."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Mapping

from ..distributed import World, on_every_rank

__all__ = ["write_embedded"]


def write_embedded(options: Any, writers: Mapping[str, Callable[[str], Path]], world: World) -> Any:
    """The options with ``data_dir`` where the embedded data set is that they ask for: ``data/<dataset>`` by default.

    Rank 0 writes it, unless it is there.

    Args:
        writers: for each embedded data set, a function from a folder to where in it the data is.

    Raises:
        InputError: it cannot be written, or the folder has other files.
    """
    name = options.dataset.lower()
    if name not in writers:
        return options
    folder = f"data/{name}" if options.data_dir in ("", ".", "./") else options.data_dir
    on_every_rank(lambda: world.is_main and writers[name](folder), world)
    return replace(options, data_dir=str(writers[name](folder)))

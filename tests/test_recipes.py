"""Every recipe parses, names a model that its options build, and says what it claims and what was run."""

from pathlib import Path

import pytest
from mindcv.models.registry import is_model

from mindcv_models.config import parse_options

RECIPES = sorted((Path(__file__).parents[1] / "configs").glob("*/*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_complete(path):
    options = parse_options("", ["--config", str(path)])
    assert is_model(options.model)
    assert path.stem.startswith(options.model.removesuffix("_224"))
    assert options.warmup_epochs + options.decay_epochs <= options.epoch_size
    assert options.weight_decay_filter == "norm_and_bias"
    assert options.val_while_train
    text = path.read_text()
    assert all(f"# {word}" in text for word in ("Paper:", "Devices:", "Run:", "Run here:"))
    assert "# Published:" in text or "# Expected:" in text
    assert str(path.relative_to(path.parents[2])) in text

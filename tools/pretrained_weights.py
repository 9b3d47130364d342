"""Published weights: list them, download them into the cache ahead of a run, or write their table into the guide.

python tools/pretrained_weights.py                        every name
python tools/pretrained_weights.py 'litv2_s*'             the names that match a pattern
python tools/pretrained_weights.py fastvit_sa12.dist_in1k litv2_s.in1k --download [--pretrained_cache DIR]
python tools/pretrained_weights.py --page                 the tables of docs/pretrained.md
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")  # read when MindSpore is imported: errors only, not its notes on itself

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindcv_models.checkpoint.official import check_readable
from mindcv_models.errors import InputError
from mindcv_models.pretrained import Source, choose_weights, fetch, list_pretrained, table
from mindcv_models.process import run

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "pretrained.md"
START, END = "<!-- tools/pretrained_weights.py -->\n", "<!-- end -->\n"
FAMILIES = {"FastViT": ("fastvit_",), "FasterViT": ("faster_vit_",), "LITv2": ("litv2_",),
            "Detection and segmentation": ("retinanet", "mask_rcnn", "semantic_fpn")}  # fmt: skip


def page(text: str) -> str:
    """``text``, a page, with its tables as the package's data have them."""
    tables = "".join(map(family, FAMILIES))
    return text[: text.index(START) + len(START)] + tables + text[text.index(END) :]


def family(title: str) -> str:
    rows = [row for row in table() if row.models[0].startswith(FAMILIES[title])]
    terms = rows[0].licence
    limit = "" if terms.commercial else ", **not for commercial use**"
    lines = [f"\n### {title}\n", f"Licence: {terms.text}{limit}.\n", "| name | published | address |", "|---|---|---|"]
    for row in rows:
        names = "<br>".join(f"`{model}.{row.tag}`" for model in row.models)
        addresses = "<br>".join(f"<{address}>" for address in row.addresses)
        lines.append(f"| {names} | {row.measure} {row.published} | {addresses} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["*"], help="names, or patterns in quotes")
    parser.add_argument("--download", action="store_true", help="download the files")
    parser.add_argument("--pretrained_cache", help="folder to download to")
    parser.add_argument("--pretrained_mirror", help="server to download from")
    parser.add_argument("--page", action="store_true", help=f"write the tables of {PAGE.relative_to(ROOT)}")
    options = parser.parse_args()
    if options.page:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
        return
    for pattern in options.names:
        names = list_pretrained(pattern)
        if not names:
            raise InputError(f"no published weights are called {pattern!r}: without a name, all are listed.")
        for name in names:
            weights = choose_weights(name)[1]
            source = Source(options.pretrained_cache, options.pretrained_mirror)
            print(fetch(weights, source, check_readable) if options.download else name)


if __name__ == "__main__":
    run(main)

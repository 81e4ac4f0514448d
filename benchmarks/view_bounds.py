"""How many neighbouring patches several exported views may join, for margins and numbers of views: an estimate.

    python benchmarks/view_bounds.py --output_file docs/benchmarks/view_bounds.json

No image and no attack: it is drawn from the export's own augmentation. In per cent, for whoever recognises every
overlap of at least 1 pixel, and for whoever also joins patches that abut within 2 pixels, as the audit counts it.
"""

from __future__ import annotations

import json
from pathlib import Path

from measuring import machine, parser_of, report, save
from monai.bundle import ConfigParser

from msdino_monai.privacy.coverage import GAP, estimate

CONFIG = Path(__file__).resolve().parents[1] / "bundles" / "cxr_embedding_export" / "configs" / "inference.json"
WAYS = {"overlaps": None, "overlaps_and_edges": GAP}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--margins", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5])
    parser.add_argument("--views", type=int, nargs="+", default=[2, 3, 4, 8])
    parser.add_argument("--img_size", type=int, default=224)
    arguments = parser.parse_args()
    started_on = machine()
    settings = {**json.loads(CONFIG.read_text(encoding="utf-8")), "img_size": arguments.img_size}
    config = ConfigParser(settings)
    augment, patch_size = config.get_parsed_content("augment"), int(settings["patch_size"])
    rows = [
        {
            "margin": margin,
            "views": views,
            **{
                name: estimate(augment, views, arguments.img_size, patch_size, patch_size - 2 * margin, gap=gap)
                for name, gap in WAYS.items()
            },
        }
        for margin in arguments.margins
        for views in arguments.views
    ]
    cells = {(row["margin"], row["views"]): row for row in rows}
    lines = [
        [margin, *(" / ".join(f"{100 * cells[margin, views][name]:.1f}" for name in WAYS)
                   for views in arguments.views)]
        for margin in arguments.margins
    ]  # fmt: skip
    header = ("margin", *(f"{views} views" for views in arguments.views))
    report("Neighbours that overlaps / overlaps and edges connect, per cent", header, lines)
    save(arguments, started_on, {"rows": rows})


if __name__ == "__main__":
    main()

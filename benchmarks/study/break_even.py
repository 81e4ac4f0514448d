"""Bytes of one export against rounds of federated averaging: up to how many images a hospital sends less by exporting.

    python benchmarks/study/break_even.py --output_file docs/benchmarks/break_even.json

Counted from the sizes of records and tensors; nothing is trained. A hospital that exports sends every image's tokens
once, and receives one body. One that takes part in a federation receives and sends all tensors of a classifier that
learn, in every round. Both move a little more on the wire (the study's table has it).
"""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from commands import BUNDLES
from measuring import machine, parser_of, report, save

from msdino_monai.finetuning.classification.network import build_classifier
from msdino_monai.networks import ViTBody
from msdino_monai.reporting.break_even import break_even_images, federated_bytes
from msdino_monai.vault.quantise import DTYPES
from msdino_monai.vault.shard import record_dtype

PATCH = 16


def record_bytes(views: int, img_size: int, embedding_dim: int, dtype: str) -> int:
    """What one image takes in an export: its tokens, scales, and its number."""
    return int(record_dtype(views, (img_size // PATCH) ** 2, embedding_dim, dtype).itemsize)


def model_bytes(img_size: int, embedding_dim: int, num_classes: int) -> dict[str, int]:
    """In fp32, what of a classifier a federation moves one way, and the body that a coordinator sends back."""
    classifier = build_classifier(num_classes, img_size=img_size, embedding_dim=embedding_dim)
    embedding = classifier.encoder.embedding.state_dict()["weight"]
    learnt = sum(tensor.numel() for tensor in classifier.parameters() if tensor.requires_grad)
    returned = sum(tensor.numel() for tensor in (embedding, *ViTBody(embedding_dim).state_dict().values()))
    return {"round": 4 * learnt, "body": 4 * returned}


def draw(rows: list[dict[str, Any]], moved: dict[str, int], rounds: list[int], path: Path) -> None:
    """Bytes against images: a line for each export, a level for each number of rounds."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    images = np.geomspace(100, 1e6, 100)
    colours = {views: f"C{number}" for number, views in enumerate(sorted({row["views"] for row in rows}))}
    for row in rows:
        label = f"{row['views']} view{'s' if row['views'] > 1 else ''}, {row['dtype']}: {row['record_bytes']:,} bytes"
        style = {"color": colours[row["views"]], "linestyle": "-" if row["dtype"] == "float16" else "--"}
        axes.plot(images, (images * row["record_bytes"] + moved["body"]) / 1e6, label=label, **style)
    for count in rounds:
        level = federated_bytes(count, moved["round"]) / 1e6
        axes.axhline(level, color="grey", linestyle=":", linewidth=1)
        axes.annotate(f"{count} round{'s' if count > 1 else ''}", (110, level), (0, 2), textcoords="offset points")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("images of a hospital")
    axes.set_ylabel("MB that leave and reach it")
    axes.set_title("One export against rounds of federated averaging, ViT-S/16, counted", fontsize=10)
    axes.legend(fontsize=8, title="an image in the export")
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))


def main() -> None:
    parser = parser_of(__doc__)
    config = json.loads((BUNDLES / "cxr_embedding_export" / "configs" / "inference.json").read_text(encoding="utf-8"))
    parser.add_argument("--img_size", type=int, default=config["img_size"])
    parser.add_argument("--embedding_dim", type=int, default=config["embedding_dim"], help="the export's default")
    parser.add_argument("--views", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--num_classes", type=int, default=14)
    parser.add_argument("--rounds", type=int, nargs="+", default=[1, 10, 50, 100])
    arguments = parser.parse_args()
    started_on = machine()
    moved = model_bytes(arguments.img_size, arguments.embedding_dim, arguments.num_classes)
    rows = []
    for views, dtype in product(arguments.views, DTYPES):
        record = record_bytes(views, arguments.img_size, arguments.embedding_dim, dtype)
        images = {
            str(count): int(break_even_images(count, moved["round"], record, moved["body"]))
            for count in arguments.rounds
        }
        rows.append({"views": views, "dtype": dtype, "record_bytes": record, "images": images})
    header = ("views", "dtype", "bytes an image", *(f"{count} rounds" for count in arguments.rounds))
    lines = [[row["views"], row["dtype"], row["record_bytes"], *row["images"].values()] for row in rows]
    report(f"Most images for which an export moves less; {moved['round'] / 1e6:.1f} MB a round, one way", header, lines)
    if arguments.output_file:
        draw(rows, moved, arguments.rounds, arguments.output_file.with_suffix(".png"))
    save(arguments, started_on, {"rows": rows, "moved_bytes": moved})


if __name__ == "__main__":
    main()

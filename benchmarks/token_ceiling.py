"""What exported tokens could tell at best: a body and a head trained on them with every label, SYNTHETIC.

    python benchmarks/token_ceiling.py --work_dir W --output_file docs/benchmarks/token_ceiling.json

No pretraining without labels can be expected to pass it by far. Each row changes what the export leaves of an image
(margin, dimensions, noise) or whether the network knows where a token lies. Training patients of three hospitals; mean
ROC AUC over the six findings on their test patients, mean over hospitals, after the last epoch: nothing is chosen.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from measuring import machine, parser_of, report, save
from torch import nn

from msdino_monai.images.cohort import write_cohort
from msdino_monai.images.transforms import LoadRadiograph
from msdino_monai.networks import PatchEmbedding, ViTBody
from msdino_monai.pretraining.probe import auc_per_class

HIDDEN, KEPT = 128, 0.75  # width of the body; share of tokens it sees of an image in training, where it knows no places


@dataclass(frozen=True)
class Row:
    """An export's defences, and whether tokens come with their places."""

    margin: int = 3
    embedding_dim: int = 64
    noise: float = 0.2
    places: bool = False


ROWS = {
    "margin 3, D 64, noise 0.2": Row(),
    "margin 3, D 64, noise 0.2, places known": Row(places=True),
    "no defence": Row(0, 256, 0.0),
    "no defence, places known": Row(0, 256, 0.0, places=True),
}


@dataclass(frozen=True)
class Split:
    """Images (n, 1, H, W) in half precision, and labels (n, C)."""

    images: torch.Tensor
    labels: torch.Tensor


def read_splits(cohort: Path, sites: Sequence[str], img_size: int) -> Iterator[tuple[Split, Split]]:
    """Training and test of every hospital."""
    load = LoadRadiograph(img_size)
    for site in sites:
        datalist = json.loads((cohort / site / "datalist.json").read_text(encoding="utf-8"))
        yield tuple(
            Split(
                torch.stack([load(cohort / site / item["image"]).as_tensor().half() for item in datalist[section]]),
                torch.tensor([item["label"] for item in datalist[section]]).float(),
            )
            for section in ("training", "test")
        )  # type: ignore[misc]


class SetClassifier(nn.Module):
    """A body, and a layer on its class token beside the mean of its tokens' features."""

    def __init__(self, row: Row, num_tokens: int, num_classes: int) -> None:
        super().__init__()
        positions = num_tokens if row.places else 0
        self.body = ViTBody(row.embedding_dim, HIDDEN, 4 * HIDDEN, num_layers=4, num_heads=4, num_positions=positions)
        self.head = nn.Linear(2 * HIDDEN, num_classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        features = self.body(tokens)
        return self.head(torch.cat([features[:, 0], features[:, 1:].mean(1)], -1))


@torch.no_grad()
def embed(embedding: PatchEmbedding, images: torch.Tensor) -> torch.Tensor:
    return torch.cat([embedding(part.float()) for part in torch.split(images, 256)])


def train(row: Row, splits: Sequence[tuple[Split, Split]], epochs: int, seed: int, batch_size: int = 64) -> float:
    """The mean AUC on test patients."""
    torch.manual_seed(seed)
    embedding = PatchEmbedding(splits[0][0].images.shape[-1], 16, row.embedding_dim, row.margin)
    tokens = torch.cat([embed(embedding, training.images) for training, _ in splits])
    labels = torch.cat([training.labels for training, _ in splits])
    batch_size = min(batch_size, len(tokens))
    spread = row.noise * tokens.std((1, 2), keepdim=True)
    network = SetClassifier(row, tokens.shape[1], labels.shape[1])
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05)
    steps = epochs * (len(tokens) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.2)
    for _ in range(epochs):
        order = torch.randperm(len(tokens))
        for chosen in torch.split(order, batch_size)[: len(tokens) // batch_size]:
            seen = tokens[chosen] + spread[chosen] * torch.randn(len(chosen), *tokens.shape[1:])
            if not row.places:
                kept = torch.rand(seen.shape[:2]).argsort(1)[:, : round(KEPT * seen.shape[1])]
                seen = torch.take_along_dim(seen, kept[..., None], 1)
            loss = F.binary_cross_entropy_with_logits(network(seen), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.no_grad():
        found = [auc_per_class(network(embed(embedding, test.images)), test.labels) for _, test in splits]
    return float(np.nanmean(found))


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--work_dir", type=Path, required=True, help="where the cohort lies; kept")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="NAME")
    parser.add_argument("--patients", type=int, default=2400, help="of each hospital")
    parser.add_argument("--image_size", type=int, default=160, help="longer side of the stored radiographs")
    parser.add_argument("--img_size", type=int, default=128, help="side of what is exported")
    parser.add_argument("--epochs", type=int, default=8)
    arguments = parser.parse_args()
    started_on, sites = machine(), ("site_a", "site_b", "site_c")
    write_cohort(str(arguments.work_dir), len(sites), arguments.patients, arguments.seed, arguments.image_size)
    splits = list(read_splits(arguments.work_dir, sites, arguments.img_size))
    rows: list[dict[str, Any]] = []
    for name in arguments.rows:
        begun = time.perf_counter()
        auc = train(ROWS[name], splits, arguments.epochs, arguments.seed)
        rows.append({"row": name, "auc": auc, "seconds": time.perf_counter() - begun})
        print(f"{name}: {auc:.3f}", flush=True)
    trained = sum(len(training.labels) for training, _ in splits)
    report(f"{trained} labelled images, SYNTHETIC", ("export", "AUC"), [[row["row"], row["auc"]] for row in rows])
    save(arguments, started_on, {"training_images": trained, "rows": rows})


if __name__ == "__main__":
    main()

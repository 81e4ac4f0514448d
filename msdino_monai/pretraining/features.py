"""Features of a set of images, as files; and what they are worth where labels are known."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.inferers import Inferer

from msdino_monai.backbone import read_backbone
from msdino_monai.errors import UserError
from msdino_monai.images.files import existing_folder, find_images
from msdino_monai.networks import ImageEncoder, ViTBody
from msdino_monai.pretraining.labelled import labelled_sections, read_sections
from msdino_monai.pretraining.probe import probe
from msdino_monai.vault import TokenStore
from msdino_monai.vault.atomic import make_folder, write_file

_log = logging.getLogger(__name__)


class FeatureInferer(Inferer):
    """The network's class feature (B, H); with `patches` all of its features (B, 1 + N, H), the class token first."""

    def __init__(self, patches: bool = False) -> None:
        super().__init__()
        self.patches = patches

    def __call__(self, inputs: torch.Tensor, network: torch.nn.Module, *_: Any, **__: Any) -> torch.Tensor:
        whole = getattr(network, "features", network)  # a body alone, on exports, gives all of them
        features: torch.Tensor = whole(inputs)
        return features if self.patches else features[:, 0]


class FeatureFile:
    """Writes `features.npy` (images, H), `images.csv` (which row is which image) and, on demand, the patches'.

    Patch features, (images, N, H) in float16, go to one `.npy` for every batch, so that memory stays flat.
    """

    def __init__(self, output_dir: str | Path) -> None:
        self.folder = Path(output_dir).expanduser()
        self.features: list[torch.Tensor] = []
        self.rows: list[dict[str, Any]] = []
        self.labels: list[list[float]] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _begin(self, _: Engine) -> None:
        make_folder(self.folder)
        self.features, self.rows, self.labels = [], [], []

    def _add(self, engine: Engine) -> None:
        batch, pred = engine.state.batch, engine.state.output["pred"].detach().float().cpu()
        patch_file = ""
        if pred.ndim == 3:
            patch_file = f"patch_features_{engine.state.iteration - 1:06d}.npy"
            write_file(self.folder / patch_file, as_npy(pred[:, 1:].half().numpy()))
            pred = pred[:, 0]
        self.features.append(pred)
        for number, file in enumerate(batch["file"]):
            row = {"row": len(self.rows), "image": file}
            if "section" in batch:
                row["section"] = batch["section"][number]
            self.rows.append({**row, "patch_file": patch_file, "patch_row": number} if patch_file else row)
        if "label" in batch:
            self.labels += torch.as_tensor(batch["label"]).tolist()

    def _finish(self, _: Engine) -> None:
        if not self.rows:
            raise UserError("no image could be used; the quarantine list in the output folder says why.")
        write_file(self.folder / "features.npy", as_npy(torch.cat(self.features).numpy()))
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_file(self.folder / "images.csv", text.getvalue().encode())
        _log.info("Features of %d images: %s", len(self.rows), self.folder / "features.npy")

    def section(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """The features and labels of one section."""
        chosen = [number for number, row in enumerate(self.rows) if row["section"] == name]
        return torch.cat(self.features)[chosen], torch.tensor(self.labels)[chosen]


def as_npy(array: np.ndarray[Any, np.dtype[Any]]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def report_probes(features: FeatureFile, classes: list[str] | None, backbone: Mapping[str, Any]) -> None:
    """k-NN and linear probe from the training section to every other, printed and written as `metrics.json`."""
    found = {row["section"] for row in features.rows}
    if "training" not in found or len(found) < 2:
        raise UserError(
            "no image of the training section, or of all others, can be used; the quarantine list says why."
        )
    if classes and len(classes) != len(features.labels[0]):
        raise UserError(f"the datalist names {len(classes)} classes, its labels have {len(features.labels[0])}.")
    sections = sorted(found - {"training"})
    known, labels = features.section("training")
    names = classes or [f"class_{number}" for number in range(labels.shape[1])]
    report: dict[str, Any] = {"backbone": dict(backbone), "images": {"training": len(known)}, "sections": {}}
    for name in sections:
        asked, wanted = features.section(name)
        scores = probe(known, labels, asked, wanted)
        report["images"][name] = len(asked)
        report["sections"][name] = {
            "knn_auc": _number(scores.knn_auc),
            "linear_auc": _number(scores.linear_auc),
            "knn_auc_per_class": dict(zip(names, map(_number, scores.knn_per_class), strict=True)),
            "linear_auc_per_class": dict(zip(names, map(_number, scores.linear_per_class), strict=True)),
        }
        _log.info("%s: mean ROC AUC %.3f (k-NN), %.3f (linear probe)", name, scores.knn_auc, scores.linear_auc)
    write_file(features.folder / "metrics.json", (json.dumps(report, indent=1) + "\n").encode())


def _number(value: float) -> float | None:
    """JSON has no NaN; null says that a class had no positives or no negatives."""
    return None if value != value else value


def list_images(dataset_dir: str | Path, datalist: str | Path | None, output_dir: str | Path) -> list[dict[str, Any]]:
    """The images of a MONAI datalist (all its sections), or all that lie below `dataset_dir`."""
    existing_folder(dataset_dir)
    if datalist is None:
        return [{"image": image} for image in find_images(dataset_dir, [output_dir])]
    sections = read_sections(Path(str(datalist)))
    return [{"image": item["image"]} for items in sections.values() for item in items]


def list_labelled(datalist: str | Path) -> list[dict[str, Any]]:
    """The images of a labelled datalist, each with its label and section."""
    return [
        {"image": item["image"], "label": torch.tensor(item["label"]).float(), "section": section}
        for section, items in labelled_sections(Path(str(datalist))).items()
        for item in items
    ]


def classes_of(datalist: str | Path) -> list[str] | None:
    """The names of the classes, where the datalist gives them (`classes`, or `labels` as the cohort's do)."""
    content = json.loads(Path(str(datalist)).expanduser().read_text(encoding="utf-8-sig"))
    names = content.get("classes") or content.get("labels")
    return list(names.values()) if isinstance(names, dict) else names


def named(backbone: str | Path) -> dict[str, Any]:
    """Which backbone was judged: its file, the hash of its tensors, and what it was trained on."""
    description = read_backbone(backbone).description or {}
    return {name: description.get(name) for name in ("tensors_sha256", "trained", "embedder")}


def images_only(
    batch: Mapping[str, Any], device: torch.device | str | None, non_blocking: bool = False, **_: Any
) -> tuple[torch.Tensor, None]:
    """A `prepare_batch` for evaluators whose labels, if any, are not the network's business."""
    return torch.as_tensor(batch["image"]).to(device, non_blocking=non_blocking), None


def body_for(encoder: ImageEncoder, store: TokenStore) -> ViTBody:
    """The encoder's body, if it was trained on the embedder these exports were made with."""
    ours, theirs = encoder.embedding.describe(), store.embedder
    if ours["sha256"] != theirs["sha256"]:
        raise UserError(f"the backbone's embedder has hash {ours['sha256']}, the exports' {theirs['sha256']}.")
    return encoder.body


class ExportedTokens:
    """The token sets of a store, batch by batch, as an evaluator takes them."""

    def __init__(self, store: TokenStore, batch_size: int) -> None:
        self.store, self.batch_size = store, batch_size

    def __len__(self) -> int:
        return -(-len(self.store) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        ids = self.store.image_ids
        for first in range(0, len(self.store), self.batch_size):
            images = np.arange(first, min(first + self.batch_size, len(self.store)))
            tokens = torch.from_numpy(self.store.gather(images)).float()
            yield {"image": tokens, "file": [bytes(ids[image]).hex() for image in images]}

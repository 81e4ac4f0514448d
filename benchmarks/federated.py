"""What a federation costs and what it is worth, for every choice of what is trained: Dice, bytes, time and memory.

    python benchmarks/federated.py --output_file docs/benchmarks/federated.json

SYNTHETIC hospitals train LiteMedSAM's real weights through the verb `federate`, in FLARE's simulator. Each row is
one federation: what is trained, or how it travels. Its bytes come from the federation's own ledger, its Dice from the
bundle's evaluation of the best global model on all sites' test volumes. Beside it stands what the same choice means for
SAM's ViT-B, counted. A row that lies in `--work_dir` is not run again; `--rows flap,full` runs these alone.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from measuring import machine, parser_of, report, save
from torch.utils.flop_counter import FlopCounterMode

from msdino_monai.federated.transport import BLOCK, pack
from msdino_monai.networks.lora import trained_tensors
from msdino_monai.networks.sam import SamSegmenter

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "sam_federated_segmentation"
CLASSES = ("kidney", "tumour")
OUT_CHANNELS = 1 + len(CLASSES)
MODES = ("flap", "lora", "lora_decoder", "decoder", "partial_decoder", "full")
# A row's name: what is trained and how it travels.
ROWS = {**{mode: (mode, "fp32") for mode in MODES}, "flap_bf16": ("flap", "bf16"), "flap_int8": ("flap", "int8")}
# What makes a row another row; it is kept beside each and compared before one is taken over.
OF_THE_BUNDLE = ("size", "image_size", "stacks_per_volume", "batch_size", "learning_rate", "seed")
SETTINGS = (*OF_THE_BUNDLE, "sites", "patients", "slices", "rounds", "local_epochs")
# MB one way for a client and round that FLAP must not exceed with ViT-B.
BARS = {"fp32": 7.5, "bf16": 3.75, "int8": 1.95}

Row = dict[str, Any]


def run(*words: object, log: Path) -> float:
    """One command; its seconds. What it prints goes to `log`."""
    start = time.perf_counter()
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {' '.join(map(str, words))}\n")
        file.flush()
        status = subprocess.run(
            [sys.executable, "-m", *map(str, words)], stdout=file, stderr=file, check=False
        ).returncode
    if status:
        raise RuntimeError(f"status {status}; see {log}")
    return time.perf_counter() - start


def write_sites(folder: Path, arguments: argparse.Namespace) -> Path:
    """The hospitals, and one datalist of all their test volumes."""
    sites = folder / "sites"
    run(
        *("msdino_monai", "volumes", "--output_dir", sites, "--sites", arguments.sites),
        *("--patients_per_site", arguments.patients, "--slices", arguments.slices, "--seed", arguments.seed),
        log=folder / "log.txt",
    )
    pooled = []
    for site in sorted(path.parent for path in sites.glob("*/datalist.json")):
        items = json.loads((site / "datalist.json").read_text(encoding="utf-8"))["test"]
        paths = ("image", "label")
        pooled += [{**item, **{key: f"{site.name}/{item[key]}" for key in paths}} for item in items]
    content = {"classes": list(CLASSES), "test": pooled}
    (folder / "test.json").write_text(json.dumps(content), encoding="utf-8")
    return sites


def measure(name: str, folder: Path, sites: Path, arguments: argparse.Namespace) -> Row:
    """One row, run or taken over from an earlier run."""
    path, (mode, transport) = folder / name / "row.json", ROWS[name]
    settings = {key: getattr(arguments, key) for key in SETTINGS}
    if mode == "full":
        settings["learning_rate"] = arguments.full_learning_rate
    if path.exists():
        row: Row = json.loads(path.read_text(encoding="utf-8"))
        if row["settings"] != settings:
            raise SystemExit(f"{path} was made with other settings; use the same ones, or another --work_dir.")
        return row
    path.parent.mkdir(parents=True, exist_ok=True)
    seconds = {"federation": federate(path.parent, sites, mode, transport, settings)}
    seconds["evaluation"] = evaluate(path.parent, folder / "test.json", sites)
    row = {"settings": settings, "trainable": mode, "transport": transport, **read(path.parent), "seconds": seconds}
    path.write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")
    return row


def federate(folder: Path, sites: Path, mode: str, transport: str, settings: Row) -> float:
    given = {key: settings[key] for key in OF_THE_BUNDLE}
    # This SAM looks at every slice by itself: overlap would change nothing but the time.
    chosen = ",".join(f"{key}={value}" for key, value in {**given, "trainable": mode, "overlap": 0}.items())
    return run(
        *("msdino_monai", "federate", "--bundle", BUNDLE, "--sites_dir", sites),
        *("--output_dir", folder / "federation", "--rounds", settings["rounds"], "--transport", transport),
        *("--local_epochs", settings["local_epochs"], "--set", chosen),
        log=folder / "log.txt",
    )


def evaluate(folder: Path, datalist: Path, sites: Path) -> float:
    """The best global model on every site's test volumes, each on its own grid."""
    configs = [str(BUNDLE / "configs" / f"{name}.json") for name in ("train", "evaluate")]
    return run(
        *("monai.bundle", "run", "--config_file", str(configs), "--bundle_root", BUNDLE, "--dataset_dir", sites),
        *("--datalist", datalist, "--output_dir", folder / "test", "--bootstrap_repeats", 1000, "--overlap", 0),
        *("--num_workers", 0, "--model", folder / "federation" / "global" / "model.pt"),
        log=folder / "log.txt",
    )


def read(folder: Path) -> Row:
    """What the federation and the evaluation have written down."""
    ledger = json.loads((folder / "federation" / "federated.json").read_text(encoding="utf-8"))
    traffic = json.loads((folder / "federation" / "traffic.json").read_text(encoding="utf-8"))["summary"]
    metrics = json.loads((folder / "test" / "metrics.json").read_text(encoding="utf-8"))
    entries = [answer for entry in ledger["history"] for answer in entry["sites"].values()]
    return {
        "sites": ledger["sites"],
        "aggregated": [f"{entry['aggregated']} of {entry['of']}" for entry in ledger["history"]],
        "validation": [each["mean"].get(ledger["key_metric"]) for each in ledger["validation"]],
        "best_round": ledger["best"]["round"],
        "dice": {
            **{name: metrics["classes"][name]["dice"] for name in CLASSES},
            "mean": metrics["mean_dice"],
        },
        "dice_per_site": site_dice(folder / "test" / "cases.csv"),
        "bytes": {
            direction: {kind: total[f"mean_{kind}_bytes"] for kind in ("tensor", "wire")}
            for direction, total in traffic.items()
        },
        "seconds_per_round": [entry["seconds"] for entry in ledger["history"]],
        "peak_memory_mb": max(answer["peak_memory_bytes"] for answer in entries) / 1e6,
    }


def site_dice(cases: Path) -> dict[str, dict[str, float | None]]:
    """For each site the mean over its cases that have the class; the files' first folder is the site's name."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: {name: [] for name in CLASSES})
    with cases.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["dice"]:
                found[row["file"].partition("/")[0]][row["class"]].append(float(row["dice"]))
    return {
        site: {name: statistics.mean(values) if values else None for name, values in classes.items()}
        for site, classes in found.items()
    }


def count(size: str, image_size: int) -> dict[str, Row]:
    """For every choice the trained parameters, and the bytes their tensors take one way in each transport."""
    found = {}
    for mode in MODES:
        with torch.device("meta"):
            network = SamSegmenter(OUT_CHANNELS, image_size, size=size, trainable=mode)
        counts = [tensor.numel() for tensor in trained_tensors(network).values()]
        scales = sum(-(-each // BLOCK) for each in counts)
        total = sum(counts)
        found[mode] = {"parameters": total, "fp32": 4 * total, "bf16": 2 * total, "int8": total + 2 * scales}
    for row in found.values():
        row["full_over_it"] = found["full"]["fp32"] / row["fp32"]
    return found


def messages(seed: int) -> dict[str, int]:
    """The bytes of a whole packed FLAP message of ViT-B: names, shapes and scales of the tensors included."""
    with torch.device("meta"):
        network = SamSegmenter(OUT_CHANNELS)
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randn(tensor.shape, generator=generator) for name, tensor in trained_tensors(network).items()
    }
    return {transport: len(pack(tensors, transport)[0]) for transport in BARS}


def mflops(size: str, image_size: int) -> dict[str, float]:
    """Floating-point operations of one slice, a multiplication and an addition counted as two: base and adapters."""
    found = {}
    for name, mode in (("base", "partial_decoder"), ("adapted", "flap")):
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
            SamSegmenter(OUT_CHANNELS, image_size, size=size, trainable=mode)(
                torch.zeros(1, 1, image_size, image_size, 1)
            )
        found[name] = counter.get_total_flops() / 1e6
    return {"base": found["base"], "adapters": found["adapted"] - found["base"]}


def show(rows: dict[str, Row], counted: dict[str, Row], vit: dict[str, Row]) -> None:
    lines = []
    for name, row in rows.items():
        mode, transport = row["trainable"], row["transport"]
        up, full = row["bytes"]["to_server"], counted["full"]["fp32"]
        lines.append(
            [
                name,
                *(row["dice"][which]["value"] for which in (*CLASSES, "mean")),
                f"{counted[mode]['parameters']:,}",
                *(round(value / 1e6, 3) for value in (up["tensor"], up["wire"], row["bytes"]["to_site"]["wire"])),
                full / up["tensor"],
                statistics.median(row["seconds_per_round"]),
                row["peak_memory_mb"],
                f"{vit[mode]['parameters']:,}",
                round(vit[mode][transport] / 1e6, 3),
                vit["full"]["fp32"] / vit[mode][transport],
            ]
        )
    header = (
        *(
            "row",
            *CLASSES,
            "mean",
            "trained",
            "MB up",
            "on the wire",
            "wire down",
            "full over it",
            "s/round",
            "peak MB",
        ),
        *("ViT-B trained", "MB", "full over it"),
    )
    report("Dice on all sites' test volumes and cost of a client and round, SYNTHETIC", header, lines)


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """How large hospitals, network and training are; the study's federations begin with the same."""
    parser.add_argument("--size", default="lite_medsam", help="of SAM: lite_medsam, or tiny for tests")
    parser.add_argument("--image_size", type=int, default=48)
    parser.add_argument("--patients", type=int, default=8, help="of each hospital")
    parser.add_argument("--slices", type=int, default=15, help="of each volume")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--local_epochs", type=int, default=1)
    parser.add_argument("--stacks_per_volume", type=int, default=4)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--full_learning_rate", type=float, default=4e-4, help="of the row `full`, which needs less")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--work_dir", type=Path, default=Path("build/federated"), help="hospitals and rows; kept")
    parser.add_argument("--rows", default=",".join(ROWS), help="which, comma separated")
    parser.add_argument("--sites", type=int, default=3)
    add_sizes(parser)
    arguments = parser.parse_args()
    names = arguments.rows.split(",")
    if unknown := [name for name in names if name not in ROWS]:
        parser.error(f"unknown row {unknown[0]}; they are {', '.join(ROWS)}.")
    started_on, folder = machine(), arguments.work_dir
    folder.mkdir(parents=True, exist_ok=True)
    sites = write_sites(folder, arguments)
    counted, vit, rows = count(arguments.size, arguments.image_size), count("vit_b", 224), {}
    for name in names:
        rows[name] = measure(name, folder, sites, arguments)
        show(rows, counted, vit)
    packed = messages(arguments.seed)
    met = {transport: packed[transport] / 1e6 <= bar for transport, bar in BARS.items()}
    operations = {"vit_b": mflops("vit_b", 224), arguments.size: mflops(arguments.size, arguments.image_size)}
    report(
        "A FLAP message of ViT-B, whole",
        ("transport", "MB", "bar", "met"),
        [[transport, round(packed[transport] / 1e6, 3), bar, met[transport]] for transport, bar in BARS.items()],
    )
    report(
        "MFLOPs of a slice",
        ("SAM", "base", "adapters", "adapters over base"),
        [[size, each["base"], each["adapters"], each["adapters"] / each["base"]] for size, each in operations.items()],
    )
    results = {
        "rows": rows,
        "counted": {arguments.size: counted, "vit_b at 224": vit},
        "vit_b_flap_message_bytes": packed,
        "bars_mb": BARS,
        "mflops_per_slice": operations,
    }
    save(arguments, started_on, results)


if __name__ == "__main__":
    main()

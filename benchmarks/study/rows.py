"""One JSON file for every model of the study: how it does on each hospital's test patients, and what it cost."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cases import Cases, mean_of, read_cases
from commands import Cost, code_of
from measuring import machine, write_json
from protocol import ARMS, TASKS, Arm, Protocol, Task
from ways import Seed

Row = dict[str, Any]


def make_row(protocol: Protocol, work: Path, seed: Seed, key: tuple[str, str, float, str]) -> Row:
    """The row of this key, made now if it is not there yet."""
    arm, task, fraction, site = ARMS[key[0]], TASKS[key[1]], key[2], key[3]
    protocol = protocol.of(task)
    place = seed.folder / "models" / name_of(key)
    path = place / "row.json"
    if path.exists():
        row: Row = json.loads(path.read_text(encoding="utf-8"))
        if row["protocol_sha256"] != digest(protocol):
            raise SystemExit(f"{path} was made by another protocol; give another --work_dir, or remove it.")
        return row
    code = code_digest(arm, task)  # of before, not of whatever lies there when it is done
    model, learning = seed.learn(arm, task, place, None if site == "all" else site, fraction)
    cases = seed.test(task, model, place / "test", protocol.tested_on(site))
    row = {
        "arm": arm.name, "task": key[1], "fraction": fraction, "site": site, "seed": seed.seed,
        "scores": scores(read_cases(cases)),
        "cost": cost(protocol, seed, arm, site, fraction, place, learning),
        "cases": str(cases.relative_to(work)),
        "protocol_sha256": digest(protocol), "code_sha256": code,
        "body_code_sha256": seed.pretrain(arm, site)[1].code if arm.backbone else None,
        "machine": machine(),
    }  # fmt: skip
    write_json(path, row, indent=1)
    return row


def name_of(key: tuple[str, str, float, str]) -> str:
    arm, task, fraction, site = key
    return f"{task}_{fraction:g}_{arm}_{site}"


def digest(protocol: Protocol) -> str:
    """Of the sizes a task uses, whichever seeds there are; arms and code have a digest of their own."""
    content = {name: value for name, value in asdict(protocol).items() if name not in ("seeds", "masks")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def code_digest(arm: Arm, task: Task) -> str:
    """Of what makes a row."""
    before = ("cxr_embedding_export", "cxr_msdino_pretraining") if arm.backbone else ()
    return code_of([*before, task.bundle], asdict(arm), asdict(task))


def scores(cases: Mapping[str, Cases]) -> dict[str, dict[str, float | None]]:
    """For every hospital whose images were tested: each class, and the mean of those that are defined."""
    found = {}
    for site, part in cases.items():
        values = part.scores()
        named = {**dict(zip(part.classes, values, strict=True)), "mean": mean_of(values)}
        found[site] = {name: float(value) if math.isfinite(value) else None for name, value in named.items()}
    return found


def cost(
    protocol: Protocol, seed: Seed, arm: Arm, site: str, fraction: float, place: Path, learning: Cost
) -> dict[str, Any]:
    """Of one hospital: bytes both ways, rounds, seconds of its processors; and the coordinator's.

    Seconds of what was `resumed` after a kill are too few.
    """
    hospitals = len(protocol.hospitals)
    total: dict[str, Any] = {"tensor_bytes": 0, "wire_bytes": 0, "rounds": 0, "peak_mb": learning.peak_mb}
    resumed = learning.resumed
    sharing = hospitals if arm.learning == "fedavg" else 1  # all sites of a federation ran in one command
    client, server = learning.cpu_seconds / sharing, 0.0
    if arm.learning == "pooled":
        client, server = server, client
    if arm.learning == "pooled" or arm.backbone == "central":
        share = fraction if arm.learning == "pooled" else 1.0  # who pools labels sends the images that have them
        total["wire_bytes"] += int(share * sum(seed.training_bytes(site) for site in protocol.hospitals) / hospitals)
        total["rounds"] += 1
    if arm.backbone:
        models, pretraining = seed.pretrain(arm, site)
        total["peak_mb"] = max(total["peak_mb"], pretraining.peak_mb)
        resumed = resumed or pretraining.resumed
    if arm.backbone == "home":
        client += pretraining.cpu_seconds
    elif arm.backbone:
        server += pretraining.cpu_seconds
        body = (models / "model.safetensors").stat().st_size
        total["tensor_bytes"] += body
        total["wire_bytes"] += body
    if arm.backbone and not arm.sees_images:
        exports = [seed.export(ARMS[arm.backbone], site) for site in protocol.hospitals]
        total["tensor_bytes"] += sum(payload_of(folder) for folder, _ in exports) // hospitals
        total["wire_bytes"] += sum(size_of(folder) for folder, _ in exports) // hospitals
        total["rounds"] += 1
        client += sum(made.cpu_seconds for _, made in exports) / hospitals
    if arm.learning == "fedavg":
        traffic = json.loads((place / "federation" / "traffic.json").read_text(encoding="utf-8"))["rows"]
        for kind in ("tensor_bytes", "wire_bytes"):
            total[kind] += sum(entry[kind] for entry in traffic) // hospitals
        total["rounds"] += protocol.rounds_of(fraction)
    return {**total, "client_cpu_seconds": client, "server_cpu_seconds": server, "resumed": resumed}


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def payload_of(export: Path) -> int:
    """Bytes of the numbers alone."""
    manifest = json.loads((export / "manifest.json").read_text(encoding="utf-8"))
    itemsize = 1 if manifest["dtype"] == "int8" else 2
    numbers = manifest["num_views"] * manifest["kept_tokens"] * manifest["embedding_dim"]
    return int(manifest["counts"]["images"] * numbers * itemsize)

"""Section: bytes of each method, and from how many images on federating costs fewer than exporting."""

from __future__ import annotations

import math
from pathlib import Path

from msdino_monai.reporting.break_even import break_even_images, export_bytes, federated_bytes
from msdino_monai.reporting.chart import Chart
from msdino_monai.reporting.data import export_images, export_payload, layout
from msdino_monai.reporting.page import Cell, Page
from msdino_monai.reporting.runs import Run, Runs, in_bytes, number

_ROUNDS = (1, 10, 100)
# Counted in this project's own network: LoRA of rank 32 and parts of SAM's mask decoder, in float32.
_FLAP_SAM_BYTES, _FLAP_SAM_ROUNDS = 4 * 1_846_384, 25
_IMAGES = [10 ** (exponent / 8) for exponent in range(8, 49)]  # 10 to 1 000 000


def add(page: Page, runs: Runs) -> None:
    page.section("Traffic: one export against rounds of federation")
    body = body_bytes(runs)
    rows: list[list[Cell]] = []
    for run in runs.exports:
        site = run.content.get("site_id", run.name)
        rows.append([f"export of {site}", "measured", export_images(run), in_bytes(export_payload(run))])
    if body:
        rows.append(["body returned, to each site", "measured", None, in_bytes(body)])
    for run in runs.federations:
        rows += [[f"{run.name}: {site}", "measured", None, in_bytes(sent)] for site, sent in site_bytes(run).items()]
    if body:
        for rounds in _ROUNDS:
            words = f"federating the whole body, {rounds} round{'s' if rounds > 1 else ''}"
            rows.append([words, "calculated", None, in_bytes(federated_bytes(rounds, body))])
    words = f"FLAP-SAM's adapters and decoder parts, {_FLAP_SAM_ROUNDS} rounds (another task: volumes)"
    rows.append([words, "calculated", None, in_bytes(federated_bytes(_FLAP_SAM_ROUNDS, _FLAP_SAM_BYTES))])
    page.table(
        ["what one site sends and receives", "", "images", "bytes"],
        rows,
        "Measured: as the run counted it. Calculated: 2 x rounds x bytes of the trained weights.",
    )
    if not runs.exports or not body:
        page.missing("The break-even line needs an export and a pretrained body; one of them was not found.")
        return
    _break_even(page, runs.exports[0], body)


def _break_even(page: Page, export: Run, body: int) -> None:
    views, tokens, dim, item = layout(export)
    image = export_bytes(1, views, tokens, dim, item)
    chart = Chart("Bytes of one site", "images of the site", "bytes", x_scale="log", y_scale="log")
    sent = [export_bytes(images, views, tokens, dim, item) + body for images in _IMAGES]
    chart.line("one export, body back once", _IMAGES, sent)
    crossings = []
    for rounds in _ROUNDS:
        level = federated_bytes(rounds, body)
        chart.line(f"federating it, {rounds} round{'s' if rounds > 1 else ''}", _IMAGES, [level] * len(_IMAGES))
        images = math.floor(break_even_images(rounds, body, image, body))
        crossings.append((f"break even at {rounds} round{'s' if rounds > 1 else ''}", images, "images per site"))
    page.facts([("one image in the export", in_bytes(image), f"{views} x {tokens} x {dim} x {item} bytes"), *crossings])
    words = (
        f"With this run's settings. Left of a crossing the export is fewer bytes, right of it federating is. An image "
        f"takes views x tokens x numbers x bytes of a number; a round takes the body ({in_bytes(body)}) both ways."
    )
    page.charts([(chart.svg(), words)])
    page.paragraph(
        "Bytes are not all. An export is sent once and needs no connection, and the coordinator then holds shuffled "
        "tokens of every image. A federation needs every site online for all rounds, and no token leaves."
    )


def body_bytes(runs: Runs) -> int:
    """Of the body's plain weights in the first pretraining run that has them; 0 where none has."""
    for run in runs.pretrainings:
        files = run.content.get("files") or {}
        for name in ("model.safetensors", "model.pt"):
            stated = (files.get(name) or {}).get("bytes")
            path = Path(run.folder, "models", name)
            if stated or path.is_file():
                return int(stated or path.stat().st_size)
    return 0


def site_bytes(run: Run) -> dict[str, float]:
    """What each site of a federation sent and received over the wire, all rounds together."""
    sums: dict[str, float] = {}
    for row in run.content.get("traffic") or ():
        wire = number(row.get("wire_bytes"))
        if math.isfinite(wire):
            sums[str(row.get("site"))] = sums.get(str(row.get("site")), 0.0) + wire
    return sums

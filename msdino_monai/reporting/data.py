"""Section: whose data it is and what each hospital sends."""

from __future__ import annotations

import hashlib

from msdino_monai.reporting.break_even import ITEM_BYTES
from msdino_monai.reporting.page import Cell, Page
from msdino_monai.reporting.picture import Picture
from msdino_monai.reporting.runs import Run, Runs, in_bytes, number


def add(page: Page, runs: Runs) -> None:
    page.section("The hospitals and what they send")
    for cohort in runs.cohorts:
        page.paragraph(f"{cohort.name}: {cohort.content['description']}")
        _sites(page, cohort)
    if runs.surveys:
        page.table(
            ["survey", "files", "usable", "set aside", "worth a look"],
            [
                [each.name, *(_count(each, name) for name in ("files", "usable", "quarantined", "flagged"))]
                for each in runs.surveys
            ],
            "What of each folder can be read as a chest radiograph, and what cannot.",
        )
    else:
        page.missing("No survey was found: nothing here says how many files were unusable.")
    _exports(page, runs)
    if runs.pictures:
        sheets = [(run, run.file("contact_sheet.png")) for run in runs.surveys]
        page.pictures(
            [
                Picture(sheet, f"Contact sheet of {run.name}", f"{run.name}: the radiographs as the networks see them.")
                for run, sheet in sheets
                if sheet is not None
            ],
            size=300,
        )


def _sites(page: Page, cohort: Run) -> None:
    sites = cohort.content.get("sites")
    if not isinstance(sites, dict) or not all(isinstance(site, dict) for site in sites.values()):
        return
    if not any("patients_with" in site for site in sites.values()):
        names = [name for name, value in next(iter(sites.values()), {}).items() if isinstance(value, (int, float, str))]
        page.table(
            ["site", *(_words(each) for each in names)], [[k, *(v.get(n) for n in names)] for k, v in sites.items()]
        )
        return
    findings = list(dict.fromkeys(name for site in sites.values() for name in site.get("patients_with", {})))
    rows: list[list[Cell]] = [
        [
            name,
            site.get("radiographs"),
            site.get("patients"),
            *(site.get("patients_with", {}).get(finding, 0) for finding in findings),
            site.get("patients_without_finding"),
        ]
        for name, site in sites.items()
    ]
    header = ["site", "images", "patients", *map(_words, findings), "none"]
    page.table(header, rows, "Patients with each finding. One patient may have several.")


def _exports(page: Page, runs: Runs) -> None:
    if not runs.exports:
        page.missing("No export was found: nothing here says what left a hospital.")
        return
    receipts = {str(each.content["manifest_sha256"]): each for each in runs.receipts}
    rows: list[list[Cell]] = []
    for run in runs.exports:
        said = run.content
        # As the receipt has it: of the file, not the checksum the file states of itself.
        receipt = receipts.get(hashlib.sha256((run.folder / "manifest.json").read_bytes()).hexdigest())
        rows.append(
            [
                str(said.get("site_id", run.name)),
                export_images(run),
                f"{said['num_views']} x {said.get('kept_tokens', said['num_tokens'])} x {said['embedding_dim']}",
                str(said["dtype"]),
                in_bytes(export_payload(run)),
                "sealed" if said.get("sealed") else "NOT sealed",
                "signed" if said.get("signature") else "not signed",
                "no receipt" if receipt is None else "verified" if receipt.content["is_verified"] else "not verified",
            ]
        )
    page.table(
        [
            "site",
            "images",
            "views x tokens x numbers",
            "number",
            "bytes",
            "sealing",
            "signature",
            "coordinator's receipt",
        ],
        rows,
        "One export for each hospital, sent once. Sealing is encryption; shuffling is not.",
    )


def export_images(run: Run) -> int:
    counts = run.content["counts"]
    return int(counts.get("images", 0)) if isinstance(counts, dict) else 0


def export_payload(run: Run) -> int:
    counts = run.content["counts"]
    return int(counts.get("bytes", 0)) if isinstance(counts, dict) else 0


def layout(run: Run) -> tuple[int, int, int, int]:
    """Views, kept tokens, numbers of a token, and bytes of a number."""
    said = run.content
    tokens = int(said.get("kept_tokens") or said["num_tokens"])
    return int(said["num_views"]), tokens, int(said["embedding_dim"]), ITEM_BYTES.get(str(said["dtype"]), 2)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _count(run: Run, name: str) -> int | None:
    value = number(run.content.get(name))
    return int(value) if value == value else None

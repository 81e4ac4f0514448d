"""The audit as a page for a privacy officer: verdict, pictures, figures, settings, and what it cannot say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msdino_monai.privacy.figure import draw_charts, identifying, strongest
from msdino_monai.privacy.verdict import JOINED_VIEWS, STRENGTH, THRESHOLDS, loosened
from msdino_monai.reporting.page import Page
from msdino_monai.reporting.picture import Picture

_KNOWS = {
    "order": "the true order of the patches (given, to show what single patches reveal)",
    "auxiliary_images": "radiographs of other people",
    "known_images": "the picture it looks for",
    "other_exports": "another site's export of the same image",
    "known_patients": "another radiograph of the patient",
    "labels": "labels of other exported images",
    "all_views": "all exported views of an image",
    "pretrained_body": "the network trained on the export",
}
_METRICS = {
    "neighbours": "neighbours put together rightly (share)",
    "places": "patches in their true place (share)",
    "largest piece": "largest piece put together rightly (share of the picture)",
    "best neighbour before the solver": "best neighbour found, one by one (share)",
    "ssim": "likeness to the true picture, SSIM (1 is equal)",
    "psnr": "likeness to the true picture, PSNR (dB, higher is alike)",
    "gmsd": "difference of edges, GMSD (0 is equal)",
    "top-1": "found at the first guess (share)",
}
_REMAINS = (
    "Single patches. The embedding is linear and public. Whoever can read the export sees what each small square "
    "shows, sharp or blurred, whatever the settings. Only their order is hidden.",
    "Text in the pixels. A name or number burned into the image lies in a few patches, and can be read there. Look at "
    "flagged.csv and at the pictures on this page.",
    "That an image is among the exported ones. Who has an image already can search for it; see the rows 'same image'.",
    "General properties, such as the patient's sex, brightness, the kind of machine, and perhaps findings; see the "
    "rows 'attribute inference'.",
)
_LIMITS = (
    "These are the strongest attacks this project has, not the strongest there can be. A stronger attack may come, and "
    "an export cannot be called back.",
    "The figures are of a sample of your images. The interval says how much other images of the same kind may differ.",
    "The attacker's networks are small and trained for minutes. One with more images and more time would do better.",
    "This is a reconstruction of a published method, and research software. A verdict 'passed' is no guarantee, and no "
    "legal assessment.",
)


def write_report(folder: Path, page: Mapping[str, Any]) -> Path:
    """`report.html` beside `audit.json` (given as `page`) and `pictures`; one file that asks for no other."""
    report = Page(
        "What an attacker sees of this export",
        lead="A sample of this hospital's radiographs was exported with the settings below, opened as the coordinator "
        "would open it, and attacked. Keep this page in the hospital: it shows patients' images.",
        footer=f"msdino_monai {page['versions']['msdino_monai']}; settings {page['export_sha256'][:16]}",
    )
    _add_verdict(report, page)
    report.charts(draw_charts(page["rows"]))
    _add_pictures(report, page, folder / "pictures")
    _add_figures(report, page)
    _add_settings(report, page)
    report.section("What stays readable, whatever the settings")
    for text in _REMAINS:
        report.paragraph(text)
    report.section("What this audit cannot say")
    for text in _LIMITS:
        report.paragraph(text)
    return report.save(folder / "report.html")


def _add_verdict(report: Page, page: Mapping[str, Any]) -> None:
    passed = page["verdict"]["result"] == "pass"
    if passed:
        report.verdict(
            "pass", "Passed", "No attack went beyond the thresholds. Read below what that means and does not."
        )
    else:
        report.verdict(
            "fail",
            "Failed: do not send an export with these settings",
            "At least one attack, or estimate of one, went beyond a threshold.",
        )
    if weaker := [*loosened(page["audit"]["thresholds"]), *page["weaker_than_usual"]]:
        report.verdict(
            "note",
            "This audit was asked less than usual",
            f"Weaker than usual, or not asked: {', '.join(weaker)}. A verdict 'passed' says less here.",
        )
    rows = [
        [
            THRESHOLDS[check["threshold"]].words,
            check["figure"],
            check["limit"],
            "kept" if check["met"] else "EXCEEDED",
            check["attack"],
        ]
        for check in page["verdict"]["checks"]
    ]
    header = ["what was measured", "reached", "limit", "", "strongest attack"]
    report.table(header, rows, "The thresholds")
    if close := [check["threshold"] for check in page["verdict"]["checks"] if _is_close(check)]:
        report.paragraph(
            f"Close: the interval of {' and '.join(close)} reaches beyond the threshold. Other images of yours might "
            "have failed. Audit more (--max_images)."
        )
    best = strongest(page["rows"], "neighbours")
    if best is not None:
        found, worst, guessed = (round(100 * best[name]) for name in ("figure", "worst", "chance"))
        put = "could, by our estimate, put" if best["attack"] == JOINED_VIEWS else "put"
        report.paragraph(
            f"Of 100 pairs of neighbouring patches the best attacker {put} {found} together rightly, and {worst} of "
            f"the image that came out worst for its patient; guessing gives {guessed}. With 100 the picture is back; "
            "with few, there are loose pieces of it. The verdict holds the mean against the threshold, not the worst "
            "image."
        )
    if found_out := identifying(page["rows"]):
        told = ", ".join(f"{row['attack']} {row['figure']:.2f}" for row in found_out.values())
        report.paragraph(
            f"No threshold asks who it is, or what is known of them. The best of these attacks (AUC: 0.5 is guessing, "
            f"1 is certainty): {told}."
        )
    images = page["images"]
    report.paragraph(
        f"{images['exported']} images were exported, {images['reconstructed']} of them reconstructed. The attacker "
        f"learnt from {images['auxiliary']} other images: {images['auxiliary_source']}."
    )
    for leak in page["order_leaks"]:
        report.paragraph(
            f"THE FILES TELL TOO MUCH: {leak}. This is a fault of the export, not of a setting; report it."
        )


def _is_close(check: Mapping[str, Any]) -> bool:
    return bool(check["met"]) and check["upper"] is not None and bool(check["upper"] > check["limit"])


def _add_pictures(report: Page, page: Mapping[str, Any], folder: Path) -> None:
    report.section("Your images, and what attackers make of them")
    report.paragraph(
        "First of each row: the view as it was exported. Second: its patches in their true order, which nobody has who "
        "holds the export; so much single patches show under these settings. Then what attackers made of it."
    )
    images: dict[str, list[tuple[str, str]]] = {}
    for name, caption in page["pictures"].items():
        images.setdefault(name.split("_")[0], []).append((name, caption))
    for number, shown in images.items():
        report.heading(f"Image {int(number)}")
        report.pictures([Picture(folder / name, caption, caption) for name, caption in shown], size=140)


def _add_figures(report: Page, page: Mapping[str, Any]) -> None:
    report.section("All figures")
    report.paragraph(
        "Compare each figure with what guessing gives. 'Knows' is what the attacker has beside the opened export and "
        "the description of the embedding in it. Intervals are 95 %, over images."
    )
    rows = []
    for row in page["rows"]:
        interval = row["interval"]
        rows.append(
            [
                row["attack"],
                _METRICS.get(row["metric"], row["metric"]),
                _short(row["figure"]),
                "" if interval is None else f"{_short(interval[0])} to {_short(interval[1])}",
                _short(row["chance"]),
                "" if row["worst"] is None else _short(row["worst"]),
                row["n"],
                "; ".join(words for name, words in _KNOWS.items() if row["knows"][name]) or "nothing more",
            ]
        )
    report.table(["attack", "measured", "figure", "interval", "guessing", "worst image", "n", "knows"], rows)
    if page["left_out"]:
        report.heading("Attacks that were left out")
        report.table(["attack", "why"], [[each["attack"], each["reason"]] for each in page["left_out"]])


def _add_settings(report: Page, page: Mapping[str, Any]) -> None:
    report.section("The settings that were attacked")
    export = page["export"]
    embedder, options = export["embedder"], export["options"]
    names = ("patch_size", "embedding_dim", "margin", "position_scale")
    rows: list[list[str]] = [[name, str(embedder[name])] for name in names if name in embedder]
    rows += [[name, str(export[name])] for name in ("num_tokens", "kept_tokens", "num_views", "dtype")]
    rows += [[name, str(value)] for name, value in options.items() if name != "augment"]
    rows.append(["augment", ", ".join(str(step["name"]) for step in options.get("augment") or []) or "none"])
    rows.append(["embedder", str(embedder["sha256"])])
    report.table(["setting", "value"], rows, "Of the export")
    asked = page["audit"]
    ours: list[list[str]] = [[name, str(asked[name])] for name in ("seed", *STRENGTH)]
    ours += [[name, "not asked" if limit is None else f"{limit:g}"] for name, limit in asked["thresholds"].items()]
    ours += [[name, str(version)] for name, version in page["versions"].items()]
    ours.append(["minutes", f"{sum(page['seconds'].values()) / 60:.1f}"])
    report.table(["setting", "value"], ours, "Of the audit")


def _short(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"

"""The verb `report`: one page of everything found below a folder."""

from __future__ import annotations

from pathlib import Path

from msdino_monai import __version__
from msdino_monai.errors import UserError, one_line
from msdino_monai.flags import as_flag
from msdino_monai.reporting import (
    attack,
    data,
    explanation,
    federation,
    findings,
    masks,
    pretraining,
    provenance,
    sample,
    summary,
    traffic,
    training,
)
from msdino_monai.reporting.data import export_images, export_payload, layout
from msdino_monai.reporting.page import Page
from msdino_monai.reporting.runs import Runs, find_runs, in_bytes
from msdino_monai.reporting.traffic import body_bytes
from msdino_monai.reporting.way import Way, draw_way

SECTIONS = (data, sample, attack, pretraining, training, findings, masks, explanation, traffic, federation, provenance)


def report(
    runs_dir: str, output_file: str | None = None, pictures: bool = True, title: str = "MS-DINO for MONAI"
) -> None:
    """Write one page about all runs below a folder: exports, pretraining, fine-tuning, federation, audits.

    --runs_dir     a folder with the output folders of any runs; what is missing is left out, and the page says so
    --output_file  where to; by default report.html in runs_dir
    --pictures     false leaves out every picture made from images: do so before a page of patients' images leaves
    --title        the headline

    The page is one file: it loads nothing, runs no script, can be read on a phone and printed. Keys are never read.
    """
    runs = find_runs(runs_dir, as_flag(pictures))
    if not runs.any():
        raise UserError(
            f"no run was found below '{runs_dir}'; name the folder that holds the --output_dir of your runs."
        )
    path = Path(output_file).expanduser() if output_file else runs.root / "report.html"
    page, incomplete = make_page(runs, title)
    saved = page.save(path)
    if runs.unreadable:
        print(f"{len(runs.unreadable)} files could not be read; the page names them in its last section.")
    for name, why in incomplete.items():
        print(f"The section '{name}' is not complete: {why}")
    print(f"{saved} ({in_bytes(saved.stat().st_size)})")


def make_page(runs: Runs, title: str = "MS-DINO for MONAI") -> tuple[Page, dict[str, str]]:
    """The whole page, and which sections are not complete and why."""
    page = Page(
        title,
        lead=(
            "Hospitals send shuffled patch embeddings of their chest radiographs once. A coordinator pretrains a "
            "vision transformer on them and returns it. Each hospital fine-tunes it on its own few labels."
        ),
        badges=_badges(runs),
        footer=(
            f"Made by msdino_monai {__version__}, `python -m msdino_monai report`. Research software, not a medical "
            "device. A reconstruction of MS-DINO (arXiv 2301.02064) and FLAP-SAM (arXiv 2407.21739) from what is "
            "published; no figure here is the papers'."
        ),
    )
    if runs.synthetic:
        page.verdict(
            "note",
            "The cohorts found here are synthetic",
            "They say that a program drew them. The figures show that every step runs; they say nothing about "
            "patients. If runs on other images lie here too, keep the page where those images are.",
        )
    elif runs.pictures:
        page.verdict(
            "fail",
            "This page may show patients' images",
            "No marker says that the images are synthetic. Keep the page where the images are, or make it again with "
            "--pictures false.",
        )
    way = _way(runs)
    caption = "The way of the data: one transfer to the coordinator, one body back."
    page.drawing(draw_way(way), caption, tall=draw_way(way, tall=True))
    incomplete = {}
    for section in (summary, *SECTIONS):
        try:
            section.add(page, runs)
        except (UserError, LookupError, TypeError, AttributeError, ValueError) as error:
            # A file of another version or a cut picture: the page says so there and goes on.
            page.verdict("fail", "This section is not complete", f"A file in it could not be used: {one_line(error)}")
            incomplete[section.__name__.rpartition(".")[2]] = one_line(error)
    return page, incomplete


def _badges(runs: Runs) -> list[str]:
    images = "synthetic cohorts" if runs.synthetic else "images not known to be synthetic"
    return [images, "not a medical device", "reconstruction from published papers"]


def _way(runs: Runs) -> Way:
    """The drawing's small print, from what was found."""
    count, body = len(runs.exports), body_bytes(runs)
    if not count:
        return Way(returned=in_bytes(body) if body else "")
    images, sent = sum(map(export_images, runs.exports)), sum(map(export_payload, runs.exports))
    views, tokens, dim, _ = layout(runs.exports[0])
    return Way(
        hospitals=f"{count} hospital{'s' if count > 1 else ''}, {images} radiographs",
        tokens=f"{views} view{'s' if views > 1 else ''} of {tokens} tokens of {dim} numbers",
        transfer=in_bytes(sent),
        returned=in_bytes(body) if body else "",
    )

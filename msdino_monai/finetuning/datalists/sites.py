"""Public volumes shared out over the sites they came from: a folder with its own cases and datalist for each."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from msdino_monai.errors import UserError
from msdino_monai.finetuning.datalists.layout import Layout, first_few, listing
from msdino_monai.finetuning.datalists.output import Findings, publish
from msdino_monai.finetuning.datalists.split import TEST, TRAINING, VALIDATION, Item, split_items
from msdino_monai.images.volume import check_volume_mask


@dataclass(frozen=True)
class Case:
    """One patient's volume and mask as they lie in the data set, and what the published table says of them."""

    site: str
    patient: str
    section: str  # training or test
    image: Path
    label: Path


def share_out(
    layout: Layout,
    cases: Sequence[Case],
    output_dir: str,
    classes: Sequence[str],
    settings: Mapping[str, object],
    validation_share: float,
    seed: int,
    copy: bool,
    check: bool,
) -> int:
    """Fill `output_dir/<site>` for every site; returns the exit status, 0 or 3 (cases are missing or unusable)."""
    folder = _claim(layout, output_dir)
    faults = {case.patient: fault for case in _shown(cases) if (fault := _fault(case, len(classes), check))}
    usable = [case for case in cases if case.patient not in faults]
    if not usable:
        name, reason = next(iter(faults.items()))
        raise UserError(
            f"none of the {len(cases)} cases that {layout.name} names can be used ({name}: {reason}); "
            f"expected {layout.expected}."
        )
    status = 0
    for site in sorted({case.site for case in cases}):
        every = [case for case in cases if case.site == site]
        if all(case.patient in faults for case in every):
            names = first_few(case.patient for case in every)
            print(f"{site}: none of its {len(every)} cases can be used ({names}); it is left out.")
            status = 3
            continue
        sections = _sections(every, validation_share, seed)
        for case in every:
            if case.patient not in faults:
                _place(case, folder / site, copy)
        missing = {_item(case)["image"]: faults[case.patient] for case in every if case.patient in faults}
        kept = {name: [item for item in items if item["image"] not in missing] for name, items in sections.items()}
        output = folder / site / "datalist.json"
        status |= publish(output, layout, str(folder / site), kept, classes, Findings("label", ()), settings, missing)
    return status


def _sections(cases: Sequence[Case], validation_share: float, seed: int) -> dict[str, list[Item]]:
    """The published sections; validation is split off by a seeded hash, of all cases, whether they are there or not."""
    training = [_item(case) for case in cases if case.section == TRAINING]
    split = split_items(training, {VALIDATION: validation_share}, seed, "label")
    return {**split, TEST: [_item(case) for case in cases if case.section == TEST]}


def _item(case: Case) -> Item:
    names = {key: f"{case.patient}/{getattr(case, key).name}" for key in ("image", "label")}
    return {**names, "patient": case.patient}


def _shown(cases: Sequence[Case]) -> Iterator[Case]:
    yield from tqdm(cases, desc="checking", unit="case", disable=not sys.stderr.isatty())


def _fault(case: Case, classes: int, check: bool) -> str:
    """Why a case cannot be used, or nothing."""
    absent = [path.name for path in (case.image, case.label) if not path.is_file()]
    if absent:
        return f"no {' and no '.join(absent)}"
    if check:
        try:
            check_volume_mask(case.label, case.image, classes)
        except UserError as error:
            return str(error).rstrip(".")
    return ""


def _claim(layout: Layout, output_dir: str) -> Path:
    """A new or empty folder, or one that this verb filled before."""
    folder = Path(str(output_dir)).expanduser()
    if not str(output_dir).strip():
        raise UserError("--output_dir is empty; name a new or empty folder.")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output_dir {folder} is a file; name a new or empty folder.")
    for entry in listing(folder) if folder.exists() else []:
        page = entry / "datalist.json"
        if not page.is_file() or f"datalist {layout.name}" not in page.read_text(errors="replace")[:400]:
            raise UserError(f"--output_dir {folder} holds other files ({entry.name}); name a new or empty folder.")
    return folder


def _place(case: Case, folder: Path, copy: bool) -> None:
    """Link or copy a case's files to where its site's datalist names them."""
    try:
        for key in ("image", "label"):
            source, target = getattr(case, key).resolve(), folder / str(_item(case)[key])
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_symlink():
                target.unlink()
            elif target.is_file() and target.stat().st_size == source.stat().st_size:
                continue  # copied before
            _fill(source, target, copy)
    except OSError as error:
        advice = "make room there" if copy else "name another folder, or give --copy true"
        raise UserError(f"cannot write {error.filename2 or folder}: {error.strerror}; {advice}.") from error


def _fill(source: Path, target: Path, copy: bool) -> None:
    if not copy:
        target.unlink(missing_ok=True)
        target.symlink_to(source)
        return
    draft = target.with_name(f".{target.name}.part")
    shutil.copyfile(source, draft)
    draft.replace(target)

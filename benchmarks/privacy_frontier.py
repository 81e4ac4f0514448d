"""What each defence of an export costs and buys: the audit's attacks, and the worth of a body pretrained on the export.

    python benchmarks/privacy_frontier.py --work_dir W --output_file docs/benchmarks/privacy_frontier.json

For every setting a sample of a SYNTHETIC cohort and one real chest radiograph (of `pydicom-data`) are exported at 224
pixels and attacked by the privacy audit's engine. The attacker learns from other patients of the same cohort. Then the
cohort's training images are exported with the same defences at --img_size, the demonstration setting pretrains on them,
and probes of its frozen features are judged on test images. Run again to continue: what is finished in W is kept,
whatever changed since; begin with an empty W after a change of the code or of an argument.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pretraining_value
import pydicom.data
from measuring import machine, parser_of, report, save
from monai.bundle import ConfigParser

from msdino_monai.images.cohort import write_cohort
from msdino_monai.images.quarantine import Quarantine
from msdino_monai.images.transforms import LoadRadiograph
from msdino_monai.privacy import audit
from msdino_monai.privacy.coverage import estimate
from msdino_monai.privacy.pool import ExportBundle, Pool, Radiograph, read_pool
from msdino_monai.privacy.row import Row, interval_of
from msdino_monai.privacy.sample import write_sample
from msdino_monai.privacy.verdict import JOINED_VIEWS

NONE = {"embedding_dim": 384, "margin": 0, "noise": 0.0, "num_views": 1}
FIRST_DEFAULT = {**NONE, "embedding_dim": 128, "margin": 2}
DEFAULT = {**NONE, "embedding_dim": 64, "margin": 4}
# The ones a choice is made among come first; a run that is cut short has them.
SETTINGS: dict[str, dict[str, Any]] = {
    "none": NONE,
    "D 64, noise 0.3": {**NONE, "embedding_dim": 64, "noise": 0.3},
    "D 64, noise 0.5": {**NONE, "embedding_dim": 64, "noise": 0.5},
    "D 128, noise 0.5": {**NONE, "embedding_dim": 128, "noise": 0.5},
    "noise 1": {**NONE, "noise": 1.0},
    "margin 2, D 128": FIRST_DEFAULT,
    "margin 3, D 128": {**NONE, "embedding_dim": 128, "margin": 3},
    "margin 3, D 128, 4 views": {**NONE, "embedding_dim": 128, "margin": 3, "num_views": 4},
    "margin 3, D 64": {**NONE, "embedding_dim": 64, "margin": 3},
    "margin 4, D 64": DEFAULT,
    "margin 4, D 64, 2 views": {**DEFAULT, "num_views": 2},
    "margin 4, D 64, 4 views": {**DEFAULT, "num_views": 4},
    "margin 5, D 36": {**NONE, "embedding_dim": 36, "margin": 5},
    "margin 5, D 36, 4 views": {**NONE, "embedding_dim": 36, "margin": 5, "num_views": 4},
    "margin 4, D 32": {**NONE, "embedding_dim": 32, "margin": 4},
    "margin 4, D 32, 4 views": {**NONE, "embedding_dim": 32, "margin": 4, "num_views": 4},
    "margin 4, D 64, codes 0.5": {**DEFAULT, "position_scale": 0.5},
    "margin 3, D 64, noise 0.1": {**NONE, "embedding_dim": 64, "margin": 3, "noise": 0.1},
    "margin 3, D 64, noise 0.3": {**NONE, "embedding_dim": 64, "margin": 3, "noise": 0.3},
    "margin 1": {**NONE, "margin": 1},
    "margin 2": {**NONE, "margin": 2},
    "margin 3": {**NONE, "margin": 3},
    "D 256": {**NONE, "embedding_dim": 256},
    "D 128": {**NONE, "embedding_dim": 128},
    "D 64": {**NONE, "embedding_dim": 64},
    "int8": {**NONE, "dtype": "int8"},
    "noise 0.1": {**NONE, "noise": 0.1},
    "noise 0.3": {**NONE, "noise": 0.3},
    "noise 0.5": {**NONE, "noise": 0.5},
    "noise 0.7": {**NONE, "noise": 0.7},
    "kept 0.5": {**NONE, "kept_share": 0.5},
    "margin 2, D 128, noise 0.3": {**FIRST_DEFAULT, "noise": 0.3},
    "margin 2, D 128, kept 0.5": {**FIRST_DEFAULT, "kept_share": 0.5},
    "margin 2, D 128, codes 0.5": {**FIRST_DEFAULT, "position_scale": 0.5},
    "none, 2 views": {**NONE, "num_views": 2},
    "margin 2, D 128, 2 views": {**FIRST_DEFAULT, "num_views": 2},
    "margin 3, D 64, 2 views": {**NONE, "embedding_dim": 64, "margin": 3, "num_views": 2},
    "D 64, noise 0.3, 2 views": {**NONE, "embedding_dim": 64, "noise": 0.3, "num_views": 2},
}
BAR = 0.2  # neighbours put together, above which a setting is no choice
REAL = "RG1_UNCR.dcm"
CONFIG = pretraining_value.BUNDLES / "cxr_embedding_export" / "configs" / "inference.json"


def joinable(settings: Mapping[str, Any], img_size: int) -> float:
    """Share of neighbours that views could join where they overlap or abut; our own attack may be too weak for it."""
    config = ConfigParser({**json.loads(CONFIG.read_text(encoding="utf-8")), **settings, "img_size": img_size})
    patch_size = int(config["patch_size"])
    width = patch_size - 2 * int(settings["margin"])
    return estimate(config.get_parsed_content("augment"), int(settings["num_views"]), img_size, patch_size, width)


def prepare(arguments: argparse.Namespace) -> tuple[Path, Path]:
    """The hospital whose images are pretrained on, and a folder of images to attack, the real radiograph in it."""
    labelled, attacked = arguments.work_dir / "labelled", arguments.work_dir / "cohort"
    write_cohort(str(labelled), 1, arguments.patients, arguments.seed, arguments.image_size)
    write_cohort(str(attacked), 1, arguments.attacked_patients, arguments.seed, arguments.attack_size)
    images = arguments.work_dir / "attacked"
    images.mkdir(exist_ok=True)
    for path in sorted((attacked / "site_a" / "images").iterdir()):
        link(images / path.name, path)
    if not arguments.skip_real:
        link(images / REAL, Path(str(pydicom.data.get_testdata_file(REAL, download=False))))
    return labelled / "site_a", images


def link(where: Path, target: Path) -> None:
    if not where.is_symlink():
        where.symlink_to(target.resolve())


def sample_of(bundle: ExportBundle, images: Path, folder: Path, seed: int, arguments: argparse.Namespace) -> Pool:
    """The real radiograph and some of the cohort's images; the attacker has those of other patients."""
    cohort_only = folder / "datalist.json"
    items = [{"image": path.name} for path in sorted(images.iterdir()) if path.name != REAL]
    cohort_only.write_text(json.dumps({"training": items}), encoding="utf-8")
    pool = read_pool(
        bundle, images, folder / "out", datalist=cohort_only, exported=arguments.linked,
        auxiliary=arguments.auxiliary, quarantine=Quarantine(folder), seed=seed,
    )  # fmt: skip
    if arguments.skip_real:
        return pool
    size = int(bundle.parser().get_parsed_content("img_size"))
    picture = LoadRadiograph(size)(images / REAL).as_tensor().numpy()[0]
    return replace(pool, exported=(Radiograph(REAL, "", picture), *pool.exported))


def attacks(images: Path, settings: Mapping[str, Any], seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Figures of the strongest attackers: on the cohort with intervals, and on the real radiograph."""
    started = time.perf_counter()
    bundle = ExportBundle(
        pretraining_value.BUNDLES / "cxr_embedding_export", {"img_size": arguments.attack_size, **settings}
    )
    with tempfile.TemporaryDirectory(dir=arguments.work_dir) as name:
        folder = Path(name)
        pool = sample_of(bundle, images, folder, seed, arguments)
        sample = write_sample(bundle, pool, images, folder / "sample", seed)
        found = audit.attack(
            sample, pool, max_images=arguments.images + (not arguments.skip_real), training_steps=arguments.steps,
            seed=seed,
        )  # fmt: skip
    result = {
        name: strongest(found.rows, metric, attack, seed, real=not arguments.skip_real)
        for name, (metric, attack) in {
            "neighbours": ("neighbours", "jigsaw"),
            "places": ("places", ""),
            "ssim_assembled": ("ssim", "jigsaw"),
            "ssim_inverter": ("ssim", "learnt inverter"),
            "ssim_known_order": ("ssim", "single patches, order known"),
            "same_image": ("top-1", "same image"),
            "same_image_auc": ("AUC", "same image"),
        }.items()
    }
    return {**result, "rows": [row.describe() for row in found.rows], "seconds": time.perf_counter() - started}


def strongest(rows: Sequence[Row], metric: str, attack: str, seed: int, real: bool) -> dict[str, Any]:
    """The best of the attackers on the cohort, and the best of them on the real radiograph (the first image)."""
    asked = [
        row for row in rows if row.metric == metric and row.attack.startswith(attack) and row.attack != JOINED_VIEWS
    ]
    if not asked[0].values:  # a ranking of all images at once
        best = max(asked, key=lambda row: row.figure)
        return {"attack": best.attack, "figure": best.figure, "interval": best.interval, "chance": best.chance}
    cohort = {row.attack: np.array(row.values[1:] if real else row.values) for row in asked}
    name = max(cohort, key=lambda each: float(np.nanmean(cohort[each])))
    values = cohort[name][np.isfinite(cohort[name])]
    return {
        "attack": name,
        "figure": float(values.mean()),
        "interval": interval_of(lambda drawn: float(values[drawn].mean()), len(values), seed),
        "chance": next(row.chance for row in asked if row.attack == name),
        "n": len(values),
        "real": max(row.values[0] for row in asked) if real else None,
    }


def utility(
    folder: Path, cohort: Path, settings: Mapping[str, Any], seed: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Linear and k-NN AUC of a body pretrained on this export, and of the same body before."""
    started = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cohort").mkdir(exist_ok=True)
    link(folder / "cohort" / "site_a", cohort)
    log = folder / "log.txt"
    pretraining_value.bundle(
        "cxr_embedding_export", ["inference"], log, dataset_dir=cohort, output_dir=folder / "exports" / "site_a",
        datalist=pretraining_value.only_training(cohort / "datalist.json", folder / "training.json"),
        state_dir=folder / "states" / "site_a", site_id="site_a", img_size=arguments.img_size, num_workers=0,
        **settings,
    )  # fmt: skip
    pretraining_value.bundle(
        "cxr_msdino_pretraining", ["train", "demonstration"], log, dataset_dir=folder / "exports",
        output_dir=folder / "pretraining", allow_unsigned="true", seed=seed, **pretraining_value.pairs(arguments.train),
    )  # fmt: skip
    trained, fresh = folder / "pretraining" / "models", pretraining_value.untrained(folder, seed)
    scores = {
        name: pretraining_value.frozen(folder, backbone, name, ["site_a"])
        for name, backbone in (("pretrained", trained), ("untrained", fresh))
    }
    return {**scores, "seconds": time.perf_counter() - started}


def kept(half: str, name: str, seed: int, arguments: argparse.Namespace, measured: Callable[[], Any]) -> Any:
    """One half of a row, from its file if it is there."""
    path = arguments.work_dir / half / f"{slug_of(name, seed)}.json"
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        result = measured()
        path.write_text(json.dumps(result), encoding="utf-8")
        print(f"{half}, {name}, seed {seed}: {result['seconds']:.0f} s.", flush=True)
    return json.loads(path.read_text(encoding="utf-8"))


def slug_of(name: str, seed: int) -> str:
    return f"{name.replace(', ', '_').replace(' ', '-')}_{seed}"


def measure(arguments: argparse.Namespace, cohort: Path, images: Path) -> list[dict[str, Any]]:
    """All rows: first every attack, then every body."""

    def attacked(names: Sequence[str], seeds: Sequence[int]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [
            {"setting": name, "settings": SETTINGS[name], "seed": seed} for seed in seeds for name in names
        ]
        for row in rows:
            given = row["settings"], row["seed"], arguments
            row["attacks"] = kept("attacks", row["setting"], *given[1:], partial(attacks, images, *given))
        return rows

    rows = attacked(arguments.settings, arguments.seeds)
    rows += attacked(arguments.repeated, arguments.more_seeds)
    for row in rows:
        row["utility"] = None
        if row["setting"] in arguments.attacked_only:
            continue
        given = row["settings"], row["seed"], arguments
        folder = arguments.work_dir / "bodies" / slug_of(row["setting"], row["seed"])
        row["utility"] = kept("utility", row["setting"], *given[1:], partial(utility, folder, cohort, *given))
    return rows


def worst(rows: Sequence[Mapping[str, Any]], img_size: int) -> float:
    """Neighbours put together by the strongest attacker, on the cohort or on the real radiograph, in the worst run.

    Several views are estimated as the audit does it: every view's own jigsaw, and whatever they could join.
    """
    found = [row["attacks"]["neighbours"] for row in rows]
    attacked = max(max(float(each["figure"]), each.get("real") or 0.0) for each in found)
    settings = rows[0]["settings"]
    return min(1.0, int(settings["num_views"]) * attacked + joinable(settings, img_size))


def summary(rows: Sequence[Mapping[str, Any]], img_size: int) -> list[dict[str, Any]]:
    """One entry a setting: means over seeds, and whether no other setting is better in both ways."""
    table = []
    for name in dict.fromkeys(row["setting"] for row in rows):
        mine = [row for row in rows if row["setting"] == name]
        entry: dict[str, Any] = {"setting": name, "seeds": len(mine), "worst": worst(mine, img_size)}
        for figure in ("neighbours", "places", "ssim_assembled", "ssim_inverter", "same_image", "same_image_auc"):
            entry[figure] = mean(row["attacks"][figure]["figure"] for row in mine)
            entry[f"{figure}_chance"] = mean(row["attacks"][figure]["chance"] for row in mine)
            entry[f"{figure}_real"] = mean(row["attacks"][figure].get("real") for row in mine)
        intervals = [row["attacks"]["neighbours"]["interval"] for row in mine]
        entry["neighbours_interval"] = [mean(pair and pair[side] for pair in intervals) for side in (0, 1)]
        for score in ("linear_auc", "knn_auc"):
            found = [row["utility"]["pretrained"][score] for row in mine if row["utility"]]
            entry[score] = mean(iter(found))
            entry[f"{score}_range"] = [min(found), max(found)] if found else [None, None]
            entry[f"{score}_untrained"] = mean(row["utility"]["untrained"][score] for row in mine if row["utility"])
        table.append(entry)
    known = [entry for entry in table if entry["linear_auc"] is not None]
    for entry in table:
        entry["on_frontier"] = entry in known and not any(
            other["worst"] <= entry["worst"]
            and other["linear_auc"] >= entry["linear_auc"]
            and (other["worst"], other["linear_auc"]) != (entry["worst"], entry["linear_auc"])
            for other in known
        )
    return table


def mean(values: Iterator[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def show(table: Sequence[Mapping[str, Any]]) -> None:
    lines = [
        [
            f"{'*' if entry['on_frontier'] else ' '} {entry['setting']}",
            entry["seeds"],
            *(
                "-" if entry[name] is None else entry[name]
                for name in (
                    *("neighbours", "neighbours_real", "worst", "places", "ssim_assembled", "ssim_assembled_real"),
                    *("ssim_inverter", "same_image", "linear_auc", "knn_auc"),
                )
            ),
        ]
        for entry in table
    ]
    header = (
        "setting",
        "seeds",
        "neighbours",
        "real",
        "worst",
        "places",
        "SSIM",
        "real",
        "inverter",
        "linked",
        "linear",
        "k-NN",
    )
    title = "Attacks and worth, SYNTHETIC but for 'real'; * no setting is better in both"
    report(title, header, lines)
    chosen = [entry for entry in table if entry["worst"] < BAR and entry["linear_auc"] is not None]
    if chosen:
        best = max(chosen, key=lambda entry: float(entry["linear_auc"]))
        print(f"Best linear probe among those below {BAR} neighbours: {best['setting']}.")
    else:
        print(f"No setting keeps the neighbours below {BAR}.")


def draw(table: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Neighbours against linear AUC, the frontier joined, chance and the bar marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.5), layout="constrained")
    axes = figure.add_subplot()
    for entry in (each for each in table if each["linear_auc"] is not None):
        low, high = (
            (0.0, 0.0)
            if entry["neighbours_interval"][0] is None
            else np.abs(np.array(entry["neighbours_interval"]) - entry["neighbours"])
        )
        colour = "C3" if entry["on_frontier"] else "C0"
        axes.errorbar(entry["neighbours"], entry["linear_auc"], xerr=[[low], [high]], fmt="o", color=colour, alpha=0.8)
        if entry["neighbours_real"] is not None:
            axes.plot(entry["neighbours_real"], entry["linear_auc"], "x", color=colour)
        if entry["worst"] > max(
            entry["neighbours"], entry["neighbours_real"] or 0.0
        ):  # overlaps of views could do more
            axes.plot([entry["neighbours"], entry["worst"]], [entry["linear_auc"]] * 2, ":", color=colour, linewidth=1)
        axes.annotate(
            entry["setting"], (entry["neighbours"], entry["linear_auc"]), (4, 4), textcoords="offset points", fontsize=7
        )
    frontier = sorted((e["worst"], e["linear_auc"]) for e in table if e["on_frontier"])
    axes.plot(*zip(*frontier, strict=True), color="C3", linewidth=1, label="frontier (the worst of these)")
    chance = float(np.mean([entry["neighbours_chance"] for entry in table]))
    untrained = mean(entry["linear_auc_untrained"] for entry in table) or 0.0
    axes.axvline(chance, color="grey", linestyle=":", label="neighbours by chance")
    axes.axvline(BAR, color="black", linestyle="--", label=f"bar, {BAR}")
    axes.axhline(untrained, color="grey", linestyle="-.", label="body before training")
    axes.set_xlabel(
        "neighbours put together by the strongest attacker (o cohort, x real radiograph; dotted: what views could join)"
    )
    axes.set_ylabel("linear probe, AUC on test images")
    axes.set_title("Privacy and utility of exports; SYNTHETIC cohort, one real radiograph", fontsize=10)
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--work_dir", type=Path, required=True, help="where figures, exports and bodies lie; kept")
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--more_seeds", type=int, nargs="*", default=[], help="for those that are repeated")
    parser.add_argument("--repeated", nargs="*", choices=list(SETTINGS), default=[], metavar="NAME")
    parser.add_argument(
        "--attacked_only", nargs="*", choices=list(SETTINGS), default=[], metavar="NAME", help="without pretraining"
    )
    parser.add_argument("--patients", type=int, default=400, help="patients whose images are pretrained on and probed")
    parser.add_argument("--image_size", type=int, default=160, help="longer side of their stored radiographs")
    parser.add_argument("--attacked_patients", type=int, default=160, help="patients whose images are attacked")
    parser.add_argument("--attack_size", type=int, default=224, help="side of what is attacked")
    parser.add_argument("--img_size", type=int, default=128, help="side of what the pretraining sees")
    parser.add_argument("--images", type=int, default=6, help="images of the cohort that are reconstructed")
    parser.add_argument("--linked", type=int, default=24, help="images that are exported and linked")
    parser.add_argument("--auxiliary", type=int, default=120, help="images the attacker learns from")
    parser.add_argument("--steps", type=int, default=250, help="training steps of the attacker's networks")
    parser.add_argument("--train", nargs="*", default=["max_epochs=30", "stop_on_collapse=false"], metavar="NAME=VALUE")
    parser.add_argument("--skip_real", action="store_true", help="leave the real radiograph out")
    arguments = parser.parse_args()
    started_on = machine()
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    cohort, images = prepare(arguments)
    rows = measure(arguments, cohort, images)
    table = summary(rows, arguments.attack_size)
    show(table)
    draw(table, (arguments.output_file or arguments.work_dir / "frontier.json").with_suffix(".png"))
    slim = [{**row, "attacks": {k: v for k, v in row["attacks"].items() if k != "rows"}} for row in rows]
    save(arguments, started_on, {"table": table, "rows": slim})


if __name__ == "__main__":
    main()

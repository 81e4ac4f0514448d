"""What each defence of an export costs and buys: the audit's attacks, and the worth of a body pretrained on the export.

    python benchmarks/privacy_frontier.py --work_dir W --output_file docs/benchmarks/privacy_frontier.json

For every setting a sample of a SYNTHETIC cohort and one real chest radiograph (of `pydicom-data`) are exported, at 224
and at 128 pixels, and attacked by the privacy audit's engine. The attacker learns from other patients of the same
cohort. Then the cohort's training images are exported with the same defences at --img_size, the demonstration setting
pretrains on them, and probes of its frozen features are judged on test images. Run again to continue: what is finished
in W is kept, whatever changed since; begin with an empty W after a change of the code or of an argument.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NONE = {"embedding_dim": 384, "margin": 0, "noise": 0.0, "num_views": 1}
FIRST_DEFAULT = {**NONE, "embedding_dim": 128, "margin": 2}
SECOND_DEFAULT = {**NONE, "embedding_dim": 64, "margin": 4}
DEFAULT = {**NONE, "embedding_dim": 64, "margin": 3, "noise": 0.1}
# The ones a choice is made among come first; a run that is cut short has them.
SETTINGS: dict[str, dict[str, Any]] = {
    "none": NONE,
    "D 64, noise 0.3": {**NONE, "embedding_dim": 64, "noise": 0.3},
    "D 64, noise 0.5": {**NONE, "embedding_dim": 64, "noise": 0.5},
    "D 128, noise 0.5": {**NONE, "embedding_dim": 128, "noise": 0.5},
    "noise 1": {**NONE, "noise": 1.0},
    "margin 2, D 128": FIRST_DEFAULT,
    "margin 3, D 128": {**NONE, "embedding_dim": 128, "margin": 3},
    "margin 3, D 64": {**NONE, "embedding_dim": 64, "margin": 3},
    "margin 3, D 64, noise 0.1": DEFAULT,
    "margin 3, D 64, noise 0.2": {**DEFAULT, "noise": 0.2},
    "margin 3, D 64, noise 0.3": {**DEFAULT, "noise": 0.3},
    "margin 3, D 64, noise 0.2, 2 views": {**DEFAULT, "noise": 0.2, "num_views": 2},
    "margin 4, D 64": SECOND_DEFAULT,
    "margin 4, D 64, 2 views": {**SECOND_DEFAULT, "num_views": 2},
    "margin 5, D 36": {**NONE, "embedding_dim": 36, "margin": 5},
    "margin 5, D 36, noise 0.3, 2 views": {**NONE, "embedding_dim": 36, "margin": 5, "noise": 0.3, "num_views": 2},
    "margin 5, D 36, 4 views": {**NONE, "embedding_dim": 36, "margin": 5, "num_views": 4},
    "margin 4, D 32": {**NONE, "embedding_dim": 32, "margin": 4},
    "margin 4, D 64, codes 0.5": {**SECOND_DEFAULT, "position_scale": 0.5},
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


def prepare(arguments: argparse.Namespace) -> Path:
    """The hospital whose images are pretrained on."""
    labelled: Path = arguments.work_dir / "labelled"
    write_cohort(str(labelled), 1, arguments.patients, arguments.seed, arguments.image_size)
    return labelled / "site_a"


def to_attack(size: int, arguments: argparse.Namespace) -> Path:
    """A folder of images of that size, the real radiograph in it."""
    attacked, images = arguments.work_dir / f"cohort_{size}", arguments.work_dir / f"attacked_{size}"
    write_cohort(str(attacked), 1, arguments.attacked_patients, arguments.seed, size)
    images.mkdir(exist_ok=True)
    for path in sorted((attacked / "site_a" / "images").iterdir()):
        link(images / path.name, path)
    if not arguments.skip_real:
        link(images / REAL, Path(str(pydicom.data.get_testdata_file(REAL, download=False))))
    return images


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


def attacks(
    images: Path, size: int, settings: Mapping[str, Any], seed: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Figures of the strongest attackers: on the cohort with intervals, and on the real radiograph."""
    started = time.perf_counter()
    bundle = ExportBundle(pretraining_value.BUNDLES / "cxr_embedding_export", {"img_size": size, **settings})
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


def measure(arguments: argparse.Namespace, cohort: Path) -> list[dict[str, Any]]:
    """All rows: first every attack, then every body."""
    images = {size: to_attack(size, arguments) for size in arguments.attack_sizes}

    def attacked(names: Sequence[str], seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
        for seed, name in product(seeds, names):
            found = {
                size: kept(
                    f"attacks_{size}", name, seed, arguments,
                    partial(attacks, images[size], size, SETTINGS[name], seed, arguments),
                )
                for size in arguments.attack_sizes
            }  # fmt: skip
            yield {"setting": name, "settings": SETTINGS[name], "seed": seed, "attacks": found}

    rows = [*attacked(arguments.settings, arguments.seeds), *attacked(arguments.repeated, arguments.more_seeds)]
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
    found = [row["attacks"][img_size]["neighbours"] for row in rows]
    attacked = max(max(float(each["figure"]), each.get("real") or 0.0) for each in found)
    settings = rows[0]["settings"]
    return min(1.0, int(settings["num_views"]) * attacked + joinable(settings, img_size))


def summary(rows: Sequence[Mapping[str, Any]], sizes: Sequence[int]) -> list[dict[str, Any]]:
    """One entry a setting: means over seeds, and whether no other setting is better in both ways."""
    table = []
    for name in dict.fromkeys(row["setting"] for row in rows):
        mine = [row for row in rows if row["setting"] == name]
        by_size = {size: attacked_at(size, mine) for size in sizes}
        entry: dict[str, Any] = {
            "setting": name,
            "seeds": len(mine),
            "worst": max(each["worst"] for each in by_size.values()),
            "attacks": by_size,
        }
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


def attacked_at(size: int, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The attacks on one setting at one size: means over seeds, and the worst run's neighbours."""
    found = [row["attacks"][size] for row in rows]
    entry: dict[str, Any] = {"worst": worst(rows, size)}
    for figure in ("neighbours", "places", "ssim_assembled", "ssim_inverter", "same_image", "same_image_auc"):
        entry[figure] = mean(each[figure]["figure"] for each in found)
        entry[f"{figure}_chance"] = mean(each[figure]["chance"] for each in found)
        entry[f"{figure}_real"] = mean(each[figure].get("real") for each in found)
    intervals = [each["neighbours"]["interval"] for each in found]
    entry["neighbours_interval"] = [mean(pair and pair[side] for pair in intervals) for side in (0, 1)]
    return entry


def mean(values: Iterator[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def show(table: Sequence[Mapping[str, Any]], sizes: Sequence[int]) -> None:
    figures = {
        "cohort": "neighbours", "real": "neighbours_real", "places": "places", "SSIM": "ssim_assembled",
        "linked": "same_image",
    }  # fmt: skip
    header = ["setting", "seeds", "worst", *(f"{name} {size}" for size in sizes for name in figures), "linear", "k-NN"]
    lines = [
        [
            f"{'*' if entry['on_frontier'] else ' '} {entry['setting']}",
            entry["seeds"],
            *(
                "-" if value is None else value
                for value in (
                    entry["worst"],
                    *(entry["attacks"][size][figure] for size in sizes for figure in figures.values()),
                    entry["linear_auc"],
                    entry["knn_auc"],
                )
            ),
        ]
        for entry in table
    ]
    report("Attacks and worth, SYNTHETIC but for 'real'; * no setting is better in both", header, lines)
    if all(entry["linear_auc"] is None for entry in table):
        return
    chosen = [entry for entry in table if entry["worst"] < BAR and entry["linear_auc"] is not None]
    if chosen:
        best = max(chosen, key=lambda entry: float(entry["linear_auc"]))
        print(f"Best linear probe among those below {BAR} neighbours: {best['setting']}.")
    else:
        print(f"No setting keeps the neighbours below {BAR}.")


def draw(table: Sequence[Mapping[str, Any]], path: Path, sizes: Sequence[int]) -> None:
    """Neighbours against linear AUC, a panel for each size, the bar and chance marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6 * len(sizes)), layout="constrained")
    untrained = mean(entry["linear_auc_untrained"] for entry in table) or 0.0
    for axes, size in zip(np.atleast_1d(figure.subplots(len(sizes), sharey=True)), sizes, strict=True):
        draw_size(axes, [entry for entry in table if entry["linear_auc"] is not None], size)
        axes.axvline(BAR, color="black", linestyle="--", label=f"bar, {BAR}")
        axes.axhline(untrained, color="grey", linestyle="-.", label="body before training")
        axes.set_ylabel("linear probe, AUC on test images")
        axes.set_title(f"Attacked at {size} pixels; SYNTHETIC cohort, one real radiograph", fontsize=10)
        axes.legend(fontsize=8)
    axes.set_xlabel(
        "neighbours put together by the strongest attacker (o cohort, x real radiograph; dotted: what views could join)"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))


def draw_size(axes: Axes, table: Sequence[Mapping[str, Any]], size: int) -> None:
    for entry in table:
        attacked, auc = entry["attacks"][size], entry["linear_auc"]
        found, real = attacked["neighbours"], attacked["neighbours_real"]
        low, high = (abs((each or found) - found) for each in attacked["neighbours_interval"])
        colour = "C3" if entry["on_frontier"] else "C0"
        axes.errorbar(found, auc, xerr=[[low], [high]], fmt="o", color=colour, alpha=0.8)
        if real is not None:
            axes.plot(real, auc, "x", color=colour)
        if attacked["worst"] > max(found, real or 0.0):  # overlaps of views could do more
            axes.plot([found, attacked["worst"]], [auc] * 2, ":", color=colour, linewidth=1)
        axes.annotate(entry["setting"], (found, auc), (4, 4), textcoords="offset points", fontsize=7)
    chance = float(np.mean([entry["attacks"][size]["neighbours_chance"] for entry in table]))
    axes.axvline(chance, color="grey", linestyle=":", label="neighbours by chance")


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
    parser.add_argument("--attack_sizes", type=int, nargs="+", default=[224, 128], help="sides of what is attacked")
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
    rows = measure(arguments, prepare(arguments))
    table = summary(rows, arguments.attack_sizes)
    show(table, arguments.attack_sizes)
    picture = (arguments.output_file or arguments.work_dir / "frontier.json").with_suffix(".png")
    if any(entry["linear_auc"] is not None for entry in table):
        draw(table, picture, arguments.attack_sizes)
    for row in rows:
        for found in row["attacks"].values():
            del found["rows"]  # of every attacker: too long a file
    save(arguments, started_on, {"table": table, "rows": rows})


if __name__ == "__main__":
    main()

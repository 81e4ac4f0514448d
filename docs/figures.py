"""Writes the figures of pages and of `eval_metrics` from the result files in docs/benchmarks, so that none drifts.

    python docs/figures.py                # write them anew
    python docs/figures.py --check        # write nothing; status 1 where a file says something else
    python docs/figures.py --demo demo    # first take a finished demo's results into docs/benchmarks/demo.json

In a page a figure stands between `<!-- figures: name -->` and `<!-- end -->`; what lies there is not for editing.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parent))

import blocks
import figures_of_study as study
from blocks import prose, results, table

ROOT = Path(__file__).resolve().parents[1]
_METADATA = "bundles/*/configs/metadata.json"
_BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_interval(content: Mapping[str, Any], digits: int | None = 3) -> str:
    """A figure and its 95 % interval; without `digits`, as many as millimetres need."""
    value, ends = content["value"], content["interval"]
    if value is None:
        return "undefined"
    texts = [f"{each:.{(0 if abs(value) >= 20 else 1) if digits is None else digits}f}" for each in (value, *ends)]
    return f"{texts[0]} ({texts[1]} to {texts[2]})"


def minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes"


def demo_block() -> str:
    page = results("demo")
    machine, stages = page["machine"], page["stages"]
    install = page.get("install_seconds")
    installed = (
        f"; installing took {minutes(install)} more, from wheels on the disk" if install else ", installing not counted"
    )
    note = f" ({page['note']})" if page.get("note") else ""
    longest = max(stages, key=lambda name: float(stages[name]))
    return prose(
        f"The demo took {minutes(sum(stages.values()))} on {machine['hardware']}{note}{installed}.",
        f'The longest stage, "{longest}", took {minutes(stages[longest])}.',
    )


def value_means() -> dict[str, float]:
    """Means over the seeds of `pretraining_value`: probes of the frozen body, and training on few labels."""
    rows = results("pretraining_value")["results"]["rows"]
    found = {}
    for start, name in (("pretrained", "pretrained"), ("untrained", "untrained")):
        for probe in ("linear_auc", "knn_auc"):
            found[f"{probe}_{name}"] = statistics.mean(row["frozen"][start][probe] for row in rows)
    for start, name in (("pretrained", "pretrained"), ("scratch", "from_scratch")):
        found[f"few_labels_auc_{name}"] = statistics.mean(few_labels(row, start) for row in rows)
    return found


def few_labels(row: Mapping[str, Any], start: str) -> float:
    return statistics.mean(float(value) for values in row["few_labels"][start].values() for value in values)


def gain_block() -> str:
    found = value_means()
    settings, rows = (results("pretraining_value")[part] for part in ("settings", "results"))
    rows = rows["rows"]
    better = sum(few_labels(row, "pretrained") > few_labels(row, "scratch") for row in rows)
    return prose(
        "Pretraining is worth little on this small cohort. Measured at "
        f"{settings['img_size']} pixels with {whose_defences()} ({defences()}).",
        f"Mean AUC over {len(settings['seeds'])} seeds with {100 * settings['label_fraction']:.0f} % of the labels: "
        f"{found['few_labels_auc_pretrained']:.3f} from the returned body,",
        f"{found['few_labels_auc_from_scratch']:.3f} from scratch; better in {better} of {len(rows)} seeds.",
        f"A linear probe of frozen features: {found['linear_auc_pretrained']:.3f}, of an untrained body "
        f"{found['linear_auc_untrained']:.3f}; these cohorts also helped to choose the default.",
    )


def whose_defences() -> str:
    """Whether what was measured is still what an export begins with."""
    config = json.loads((ROOT / "bundles/cxr_embedding_export/configs/inference.json").read_text(encoding="utf-8"))
    measured = results("pretraining_value")["results"]["export"].items()
    return "the export's default" if all(config[name] == value for name, value in measured) else "other defences"


def defences() -> str:
    """What the exports of `pretraining_value` were defended by."""
    page = results("pretraining_value")
    export, views = page["results"]["export"], page["settings"]["views"]
    words = [f"{views} view{'s' if views > 1 else ''}", f"{export['embedding_dim']} dimensions"]
    words += [f"{name} {export[name]}" for name in ("margin", "noise") if export[name]]
    return ", ".join(words)


def pretraining_block() -> str:
    rows = [
        [
            str(row["seed"]),
            *(f"{row['frozen'][start]['linear_auc']:.3f}" for start in ("pretrained", "untrained")),
            *(f"{row['frozen'][start]['knn_auc']:.3f}" for start in ("pretrained", "untrained")),
        ]
        for row in results("pretraining_value")["results"]["rows"]
    ]
    header = ("seed", "linear probe", "untrained", "k-NN", "untrained")
    return _value_words("probes of the frozen body's features") + "\n" + table(header, rows)


def few_labels_block() -> str:
    rows = [
        [str(row["seed"]), *(f"{few_labels(row, start):.3f}" for start in ("pretrained", "scratch"))]
        for row in results("pretraining_value")["results"]["rows"]
    ]
    share = 100 * results("pretraining_value")["settings"]["label_fraction"]
    what = f"trained on {share:.0f} % of one hospital's patients, mean over the test images of hospitals A and B"
    better = sum(float(body) > float(scratch) for _, body, scratch in rows)
    verdict = prose(
        f"Better from the body in {better} of {len(rows)} seeds. From scratch, too, the network sees only what the "
        "exports' margin and dimensions leave of a patch."
    )
    return f"{_value_words(what)}\n{table(('seed', 'from the body', 'from scratch'), rows)}\n{verdict}"


def _value_words(what: str) -> str:
    page = results("pretraining_value")
    return prose(
        f"Mean ROC AUC over six findings of SYNTHETIC radiographs: {what}.",
        f"By `{page['command'].partition(' --output_file')[0]}`, {page['date']}, on {page['machine']['cores']} cores.",
    )


def export_block() -> str:
    found = results("export")["results"]
    dicom = results("export_dicom")["results"]
    over = {name: dicom["dicom"][name]["export over decoder"]["median"] for name in ("cold", "warm")}
    rows = [
        ["images a second: PNG, sealed, two workers", f"{found['memory']['images_per_second']:.0f}"],
        ["most memory (PSS) over 10,000 images", f"{found['memory']['highest']['pss_mb']:.0f} MB"],
        ["bytes on disk over payload, worst of six", f"{worst_size(found):.4f}"],
        ["time over the DICOM decoder's alone: files on the disk", f"{over['cold']:.1f}"],
        ["the same, files in memory", f"{over['warm']:.1f}"],
    ]
    return table(("SYNTHETIC PNGs and a real CR, 2 shared CPU cores; margin 2, 128 dimensions", "figure"), rows)


def worst_size(found: Mapping[str, Any]) -> float:
    return float(max(each["over_payload"] for each in found["payload"].values()))


def masks_table(name: str) -> str:
    classes = results(name)["results"]["classes"]
    rows = [
        [
            finding.replace("_", " "),
            with_interval(said["dice"]),
            with_interval(said["hd95_mm"], None),
            with_interval(said["surface_distance_mm"], None),
        ]
        for finding, said in classes.items()
    ]
    return table(("class", "Dice (95 %)", "HD95, mm (95 %)", "mean distance, mm (95 %)"), rows)


def lesions_block() -> str:
    found = results("lesions")["results"]
    learnt = {name: each["dice"] for name, each in found["classes"].items() if each["dice"]["value"] >= 0.0005}
    lost = [name.replace("_", " ") for name in found["classes"] if name not in learnt]
    words = ", ".join(f"{name} {with_interval(each)}" for name, each in learnt.items())
    return prose(
        f"Mean Dice is {with_interval(found['mean_dice'])} on {found['cases']} images: {words}, and",
        f"**0.000 for {', '.join(lost)}: at this size and length they are not learnt at all.**",
    )


def kidneys_block() -> str:
    page = results("kidneys")
    alarms = page["results"]["classes"]["tumour"]["false_alarms_per_image"]
    (validation,) = page["settings"]["chosen"]["validation"].values()
    return f"{masks_table('kidneys')}\n" + prose(
        f"Mean Dice on validation was {validation:.3f}.",
        f"Both tumours are found; small false alarms elsewhere ({alarms:.1f} a volume) make their HD95.",
    )


def federation_block() -> str:
    found = results("federated")["results"]
    size = next(name for name in found["counted"] if not name.startswith("vit_b"))
    counted, vit = found["counted"][size], found["counted"]["vit_b at 224"]
    rows = []
    for name, row in found["rows"].items():
        mode, transport, sent = row["trainable"], row["transport"], row["bytes"]["to_server"]
        rows.append(
            [
                f"`{name}`",
                *(f"{row['dice'][which]['value']:.2f}" for which in ("kidney", "tumour", "mean")),
                f"{counted[mode]['parameters']:,}",
                f"{sent['tensor'] / 1e6:.2f} ({sent['wire'] / 1e6:.2f})",
                f"{counted['full']['fp32'] / sent['tensor']:.1f}",
                f"{vit[mode]['parameters']:,}",
                f"{vit[mode][transport] / 1e6:.2f}",
                f"{vit['full']['fp32'] / vit[mode][transport]:.1f}",
            ]
        )
    header = ("trained", "Dice kidney", "Dice tumour", "mean", "parameters", "MB one way, tensors (wire)")
    return table((*header, "full over it", "ViT-B: parameters", "MB", "full over it"), rows)


def frontier_block(name: str = "privacy_frontier") -> str:
    """Attacks and worth of every setting, the safest last."""
    page = results(name)

    def ranged(entry: Mapping[str, Any], name: str, bounds: str, digits: int) -> str:
        low, high = entry[bounds]
        if entry[name] is None:
            return "-"
        if low is None or low == high:
            return f"{entry[name]:.{digits}f}"
        return f"{entry[name]:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"

    rows = [
        [
            entry["setting"],
            str(entry["seeds"]),
            f"{entry['worst']:.2f}",
            *(
                cell
                for found in entry["attacks"].values()
                for cell in (
                    ranged(found, "neighbours", "neighbours_interval", 2),
                    *(f"{found[name]:.2f}" for name in ("neighbours_real", "places", "ssim_assembled")),
                )
            ),
            *(ranged(entry, probe, f"{probe}_range", 3) for probe in ("linear_auc", "knn_auc")),
        ]
        for entry in sorted(page["results"]["table"], key=lambda each: float(each["worst"]), reverse=True)
    ]
    attacked = [
        f"{name}, {size} px"
        for size in page["settings"]["attack_sizes"]
        for name in ("neighbours", "real radiograph", "places", "SSIM")
    ]
    header = ["setting", "runs", "worst case", *attacked, "linear probe", "k-NN"]
    if all(entry["linear_auc"] is None for entry in page["results"]["table"]):
        header, rows = header[:-2], [row[:-2] for row in rows]
    return table(header, rows)


def candidates() -> list[dict[str, Any]]:
    """Settings an export's default may be chosen among: the strongest attack at 224 pixels, probes on three hospitals.

    The best is the one with the highest mean of both probes among those that pass; the others are held against it on
    the seeds they share. Best first.
    """
    strong = results("privacy_frontier_strong")["results"]
    settings = {row["setting"]: row["settings"] for row in strong["rows"]}
    pages = [results(path.stem) for path in sorted(blocks.RESULTS.glob("pretraining_value*.json"))]
    found = []
    for entry in strong["table"]:
        probed = [page["results"]["rows"] for page in pages if _exported_so(page, settings[entry["setting"]])]
        rows = [row for page in probed for row in page]
        # A body that lies in two files is one run; the same seed exported anew is another one.
        rows = list({json.dumps(row["frozen"], sort_keys=True): row for row in rows}.values())
        if rows:
            by_seed: dict[int, list[float]] = {}
            for row in rows:
                by_seed.setdefault(row["seed"], []).append(statistics.mean(row["frozen"]["pretrained"].values()))
            worth = {seed: statistics.mean(values) for seed, values in by_seed.items()}
            worst = entry["attacks"]["224"]["worst"]
            said = {"setting": entry["setting"], "settings": settings[entry["setting"]], "runs": entry["seeds"]}
            found.append({**said, "worst": worst, "passes": worst < 0.2, "rows": rows, "worth": worth})
    best = max((each for each in found if each["passes"]), key=lambda each: statistics.mean(each["worth"].values()))
    for each in found:
        gaps = [each["worth"][seed] - best["worth"][seed] for seed in each["worth"].keys() & best["worth"].keys()]
        each["gap"] = statistics.mean(gaps)
        each["error"] = statistics.stdev(gaps) / len(gaps) ** 0.5
    return sorted(found, key=lambda each: -each["gap"])


def chosen(found: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Of those that pass and are no more than a standard error behind the best, the one that gives back least."""
    equals = [each for each in found if each["passes"] and each["gap"] >= -each["error"]]
    return min(equals, key=lambda each: float(each["worst"]))


def choice_block() -> str:
    """What the export's default was chosen by."""
    found = candidates()
    rows = []
    for each in found:
        scores = [
            statistics.mean(row["frozen"][start][probe] for row in each["rows"])
            for probe in ("linear_auc", "knn_auc")
            for start in ("pretrained", "untrained")
        ]
        name = f"**{each['setting']}**" if each is chosen(found) else each["setting"]
        attack = [f"{each['worst']:.2f}", str(each["runs"]), "yes" if each["passes"] else "**no**"]
        gap = f"{each['gap']:+.4f} ± {each['error']:.4f}" if each["error"] else "the best"
        runs = f"{len(each['rows'])} exports of {len(each['worth'])} cohorts"
        rows.append([name, *attack, runs, *(f"{score:.3f}" for score in scores), gap])
    attack_header = ("setting", "neighbours, 224 px, worst run", "runs", "below 0.2")
    probes = ("probed", "linear probe, 128 px", "untrained", "k-NN, 128 px", "untrained")
    return table((*attack_header, *probes, "both probes, to the best that passes"), rows)


def _exported_so(page: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """With the study's cohorts and sizes, and these defences."""
    exported = {**page["results"].get("export", {}), "num_views": page["settings"]["views"]}
    return bool(exported == dict(settings)) and page["settings"]["img_size"] == 128


def ceiling_block() -> str:
    """What the tokens of an export could tell at best."""
    page = results("token_ceiling")
    rows = [[row["row"], f"{row['auc']:.3f}"] for row in page["results"]["rows"]]
    return table(("export", "mean AUC"), rows)


def audit_block() -> str:
    """What an audit takes and finds where it begins."""
    page = results("privacy_audit")
    found, machine = page["results"], page["machine"]
    checks = {check["threshold"]: check for check in found["verdict"]["checks"]}
    images, neighbours = found["images"], checks["max_neighbour_accuracy"]
    cores, load = f"{machine['cores']} {machine['cpu']} cores", machine["load_average"][0]
    return prose(
        f"One audit of a SYNTHETIC hospital of {found['radiographs']} radiographs at 224 pixels, with the settings it "
        f"begins with ({images['exported']} exported, {images['auxiliary']} learnt from), took "
        f"{minutes(found['wall_seconds'])} on {cores} (load {load:.1f} before it).",
        f"Verdict: {found['verdict']['result']}; the strongest attacker put {neighbours['figure']:.2f} of the pairs "
        f"together ({neighbours['attack']}).",
    )


def bounds_block() -> str:
    """What several views may connect, for each margin and number of views."""
    page = results("view_bounds")
    cells = {(row["margin"], row["views"]): row for row in page["results"]["rows"]}
    views = page["settings"]["views"]
    rows = [
        [
            str(margin),
            *(
                " / ".join(f"{100 * cells[margin, count][way]:.1f}" for way in ("overlaps", "overlaps_and_edges"))
                for count in views
            ),
        ]
        for margin in page["settings"]["margins"]
    ]
    return table(("margin", *(f"{count} views" for count in views)), rows)


BLOCKS: dict[str, Callable[[], str]] = {
    "demo": demo_block,
    "gain": gain_block,
    "export": export_block,
    "pretraining": pretraining_block,
    "few_labels": few_labels_block,
    "classification": study.performance_block,
    "lungs": lambda: masks_table("lungs"),
    "lesions": lesions_block,
    "kidneys": kidneys_block,
    "federation": federation_block,
    "audit": audit_block,
    "choice": choice_block,
    "break_even": study.break_even_block,
    "ceiling": ceiling_block,
    "hours": study.hours_block,
    "study": study.study_block,
    "study_findings": lambda: study.classes_block("findings"),
    "study_differences": study.differences_block,
    "study_finding_differences": lambda: study.class_differences_block("findings"),
    "study_words": study.words_block,
    "longer": study.longer_block,
    "verdict": study.verdict_block,
    "frontier": frontier_block,
    "strong": lambda: frontier_block("privacy_frontier_strong"),
    "bounds": bounds_block,
}


def dice_of(name: str, what: str) -> dict[str, float]:
    found = results(name)["results"]
    each = {f"{what}_dice_{finding}": said["dice"]["value"] for finding, said in found["classes"].items()}
    return {f"{what}_mean_dice": found["mean_dice"]["value"], **each}


def eval_metrics() -> dict[str, dict[str, float]]:
    """For each bundle the scores of its runs; every name says that the images are synthetic."""
    value = value_means()
    export = results("export")["results"]
    federated = results("federated")["results"]["rows"]["flap"]["dice"]
    found = {
        "cxr_embedding_export": {"bytes_over_payload": worst_size(export)},
        "cxr_msdino_pretraining": {name: each for name, each in value.items() if not name.startswith("few")},
        "cxr_classification": study.performance(),
        "cxr_segmentation": {**dice_of("lungs", "lungs"), **dice_of("lesions", "lesions")},
        "sam_federated_segmentation": {
            **dice_of("kidneys", "one_site"),
            **{f"federated_dice_{name}": each["value"] for name, each in federated.items()},
        },
    }
    return {
        bundle: {f"synthetic_{name}": round(each, 4) for name, each in scores.items()}
        for bundle, scores in found.items()
    }


def filled(text: str) -> str:
    """A page with its figures made anew."""
    return _BLOCK.sub(lambda found: f"{found[1]}{BLOCKS[found[2]]()}{found[3]}", text)


def with_metrics(text: str, scores: Mapping[str, float]) -> str:
    """A metadata.json with `eval_metrics` behind what the bundle is for."""
    content = {name: value for name, value in json.loads(text).items() if name != "eval_metrics"}
    kept: dict[str, Any] = {}
    for name, value in content.items():
        kept[name] = value
        if name == "intended_use":
            kept["eval_metrics"] = dict(scores)
    return json.dumps(kept, indent=4) + "\n"


def pages() -> dict[Path, str]:
    """Every file that holds figures, and what it should say."""
    readmes = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("bundles/*/docs/README.md"))]
    found = {path: filled(path.read_text(encoding="utf-8")) for path in readmes}
    for bundle, scores in eval_metrics().items():
        path = ROOT / "bundles" / bundle / "configs" / "metadata.json"
        found[path] = with_metrics(path.read_text(encoding="utf-8"), scores)
    return found


def scores_in(metadata: Path) -> dict[str, float]:
    """What a bundle says of the weights in it."""
    content = json.loads(metadata.read_text(encoding="utf-8"))
    return dict(content["eval_metrics"]) if (metadata.parents[1] / "models").is_dir() else {}


def take_demo(folder: Path, install_seconds: float | None, note: str = "") -> None:
    """A finished demo's times and scores as a result file."""
    finished = json.loads((folder / "finished.json").read_text(encoding="utf-8"))
    content = {
        "command": "make demo",
        "date": finished["date"],
        "machine": finished["machine"],
        "note": note,
        "settings": finished["size"],
        "install_seconds": install_seconds,
        "stages": {name: round(seconds, 1) for name, seconds in finished["stages"].items()},
        "audit": json.loads((folder / "audit" / "audit.json").read_text(encoding="utf-8"))["verdict"],
        "results": {path.parents[1].name: scores_in(path) for path in sorted(folder.glob(_METADATA))},
    }
    (blocks.RESULTS / "demo.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def take_picture(page: Path) -> None:
    """The top of a demo's report, as the README shows it."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit(
            "docs/images/report.png is of another demo now, and there is no Chromium to take it anew; install one."
        )
    picture = ROOT / "docs" / "images" / "report.png"
    words = ["--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1200,985", f"--screenshot={picture}"]
    subprocess.run([browser, *words, page.resolve().as_uri()], check=True, capture_output=True)  # noqa: S603


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--demo", type=Path, help="the folder of a finished demo")
    parser.add_argument("--install_seconds", type=float, help="what its installation took")
    parser.add_argument("--note", default="", help="what else the machine did meanwhile")
    arguments = parser.parse_args()
    if arguments.demo:
        take_demo(arguments.demo, arguments.install_seconds, arguments.note)
        take_picture(arguments.demo / "report.html")
    drifted = {path: text for path, text in pages().items() if path.read_text(encoding="utf-8") != text}
    names = ", ".join(str(path.relative_to(ROOT)) for path in drifted)
    if arguments.check and drifted:
        sys.exit(f"figures have drifted in {names}; run python docs/figures.py.")
    for path, text in drifted.items():
        path.write_text(text, encoding="utf-8")
    print(f"written: {names}" if drifted else "every figure is the result files'.")


if __name__ == "__main__":
    main()

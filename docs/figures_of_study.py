"""The figures of the study's pages."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from blocks import prose, results, table, with_ends


def study_block() -> str:
    """What every arm of the study reached, and what it cost, as far as it has been made."""
    summary = results("study")["results"]["summary"]
    cells = ("task", "fraction", "arm")
    costs = {tuple(entry[name] for name in cells): entry for entry in summary["costs"]}
    rows = []
    for entry in sorted(summary["scores"], key=lambda each: (each["task"], each["fraction"])):
        cost = costs[tuple(entry[name] for name in cells)]
        rows.append(
            [
                entry["task"],
                f"{100 * entry['fraction']:g} %",
                f"`{entry['arm']}`",
                *(with_ends(entry[where]) for where in ("own", "unseen")),
                f"{cost['wire_bytes'] / 1e6:.1f}",
                f"{cost['rounds']:.0f}",
                f"{cost['client_cpu_seconds']:.0f}",
                f"{cost['server_cpu_seconds']:.0f}",
                f"{cost['peak_mb']:.0f}",
            ]
        )
    header = ["task", "labels", "arm", "own hospital", "unseen hospital", "MB a hospital", "rounds"]
    return table([*header, "its CPU seconds", "the coordinator's", "peak memory, MB"], rows)


def class_means(task: str) -> dict[tuple[float, str], dict[str, float | None]]:
    """Of each share of labels and arm: each class's mean over seeds and learners, on the learners' own patients."""
    page = results("study")["results"]
    learners = page["protocol"]["learners"]
    found: dict[tuple[float, str], dict[str, list[float]]] = {}
    for row in page["rows"]:
        if row["task"] == task:
            of_arm = found.setdefault((row["fraction"], row["arm"]), {})
            for site in learners if row["site"] == "all" else [row["site"]]:
                for name, value in row["scores"][site].items():
                    of_arm.setdefault(name, []).extend([] if value is None else [value])
    arms = list(dict.fromkeys(entry["arm"] for entry in page["summary"]["scores"]))
    return {
        cell: {name: statistics.mean(values) if values else None for name, values in found[cell].items()}
        for cell in sorted(found, key=lambda each: (each[0], arms.index(each[1])))
    }


def classes_block(task: str) -> str:
    """Each class for itself."""
    means = class_means(task)
    classes = [name for name in next(iter(means.values())) if name != "mean"]
    rows = [
        [f"{100 * fraction:g} %", f"`{arm}`", *(_or_dash(scores[name]) for name in classes)]
        for (fraction, arm), scores in means.items()
    ]
    return table(("labels", "arm", *(name.replace("_", " ") for name in classes)), rows)


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def differences_block() -> str:
    """Paired differences to learning alone, without or with DINO at home, and to federated averaging."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for entry in results("study")["results"]["summary"]["differences"]:
        if entry["other"] in ("local", "fedavg", "home"):
            cell = tuple(entry[name] for name in ("task", "fraction", "arm", "other"))
            found.setdefault(cell, {})[entry["where"]] = entry
    rows = []
    for (task, fraction, arm, other), both in sorted(
        found.items(), key=lambda each: (not each[1]["own"]["primary"], *each[0][:2])
    ):
        own = both["own"]
        verdict = ("**yes**" if own["low"] > 0 else "**no**") if own["primary"] else ""
        seeds = [
            cell
            for entry in (own, both["unseen"])
            for cell in (with_ends(entry, "+"), f"{entry['above']} of {len(entry['values'])}")
        ]
        rows.append([task, f"{100 * fraction:g} %", f"`{arm}` - `{other}`", *seeds, verdict])
    header = ["task", "labels", "difference", "own hospital", "seeds above 0", "unseen hospital", "seeds above 0"]
    return table([*header, "primary: above 0"], rows)


def gains(task: str, fraction: float) -> dict[tuple[str, str], str]:
    """Of pairs of arms, the difference at the learners' own hospitals with its interval."""
    return {
        (entry["arm"], entry["other"]): with_ends(entry, "+")
        for entry in results("study")["results"]["summary"]["differences"]
        if (entry["task"], entry["fraction"], entry["where"]) == (task, fraction, "own")
    }


def verdict_block() -> str:
    """What the study says of MS-DINO, in three sentences."""
    summary = results("study")["results"]["summary"]
    own = {
        entry["arm"]: f"{entry['own']['mean']:.3f}"
        for entry in summary["scores"]
        if (entry["task"], entry["fraction"]) == ("findings", 0.1)
    }
    primary = [entry["low"] > 0 for entry in summary["differences"] if entry["primary"]]
    succeeds = {
        0: "neither comparison succeeds",
        1: "one of the two comparisons succeeds",
        2: "both comparisons succeed",
    }
    return prose(
        "Pretraining is worth little on this small cohort. In the [study](docs/results.md#the-study), five seeds, mean "
        f"AUC with 10 % of the labels: {own['msdino']} with MS-DINO, {own['local']} learning "
        f"alone, {own['fedavg']} by federated averaging; {succeeds[sum(primary)]}. "
        f"DINO on a hospital's own images, without sharing anything, has {own['home']}."
    )


MAIN = ("local", "fedavg", "central", "home", "msdino")


def performance() -> dict[str, float]:
    """Mean AUC of findings on the learners' own patients, for the arms that a user of the bundle chooses between."""
    return {
        f"auc_{100 * entry['fraction']:g}_percent_of_labels_{entry['arm']}": entry["own"]["mean"]
        for entry in results("study")["results"]["summary"]["scores"]
        if entry["task"] == "findings" and entry["arm"] in MAIN
    }


def performance_block() -> str:
    """The same with intervals."""
    page = results("study")
    own: dict[str, dict[float, str]] = {}
    for entry in page["results"]["summary"]["scores"]:
        if entry["task"] == "findings":
            own.setdefault(entry["arm"], {})[entry["fraction"]] = with_ends(entry["own"])
    shares = sorted({share for cells in own.values() for share in cells})
    rows = [[WHAT_IT_IS[arm], *(own[arm].get(share, "-") for share in shares)] for arm in MAIN]
    sizes = page["results"]["protocol"]
    said = prose(
        f"Mean ROC AUC over six findings of SYNTHETIC radiographs at {sizes['img_size']} px on a hospital's own test "
        f"patients, {len(sizes['seeds'])} cohorts, {len(sizes['learners'])} hospitals each, with 95 % intervals; "
        f"labels are a share of a hospital's {sizes['patients'] * 6 // 10} training patients:"
    )
    return f"{said}\n{table(('learnt', *(f'{100 * share:g} % of the labels' for share in shares)), rows)}"


WHAT_IT_IS = {
    "local": "from scratch, alone",
    "fedavg": "from scratch, by federated averaging of three hospitals",
    "central": "from DINO on the pooled images of three hospitals",
    "home": "from DINO on the hospital's own images",
    "msdino": "from MS-DINO on the exports of three hospitals",
}


def words_block() -> str:
    """What few labels show beside the primary comparisons, own hospital."""
    few, fewest, means = gains("findings", 0.1), gains("findings", 0.01), class_means("findings")

    def each(finding: str) -> str:
        arms = ("local", "msdino", "msdino_codes", "central")
        return ", ".join(f"`{arm}` {means[0.1, arm][finding]:.2f}" for arm in arms)

    return _items(
        "**The yardstick can see a gain, and leaves little room.** DINO on pooled images, the upper bound, gains "
        f"{few['central', 'local']} over learning alone. Over federated averaging it gains {few['central', 'fedavg']}; "
        "with the correction of the primary comparisons it would hardly pass itself.",
        f"**MS-DINO gets about a third of that**, {few['msdino', 'local']}, and is behind the upper bound: "
        f"{few['msdino', 'central']}.",
        "**DINO at home gains as much as the upper bound, without any sharing**: on the images of each hospital alone, "
        f"in as many steps, {few['home', 'local']} over learning alone; all images in one place add "
        f"{few['central', 'home']}. A hospital with some hundred unlabelled images "
        "should try that first: `central.json` on its own folder.",
        "**Places are what shuffling costs most.** With position codes in the tokens, which would undo the shuffle, "
        f"the gain over learning alone is {few['msdino_codes', 'local']}; shuffled, but without margin, noise and "
        f"fewer dimensions, {few['msdino_open', 'local']}.",
        "Federated averaging from MS-DINO's body is not shown to be better than from scratch: "
        f"{few['msdino_fedavg', 'fedavg']}.",
        f"**It is nearly all cardiomegaly** ({each('cardiomegaly')}). Pneumothorax gets worse "
        f"({each('pneumothorax')}), and bilateral opacities and nodules stay near chance whatever is done.",
        "**On the unseen hospital** no body pretrained without labels is shown to help, images in one place included.",
        "**With 1 % of the labels, five patients, no pretraining helps**: MS-DINO over learning alone "
        f"{fewest['msdino', 'local']}, pooled images {fewest['central', 'local']}. Federated averaging is ahead "
        f"({fewest['fedavg', 'local']}), but it takes its best round by the labels of the validation patients, of whom "
        "there are 32 times as many; no other arm looks at them. Pooling all labels is even worse than learning alone "
        f"({fewest['pooled', 'local']}), so it is no upper bound there.",
    )


def _items(*texts: str) -> str:
    return "".join("- " + prose(text).rstrip("\n").replace("\n", "\n  ") + "\n" for text in texts)


def ablation_block() -> str:
    """Probes of every variant of MS-DINO, and how far they are from the study's."""
    page = results("ablation")["results"]
    seeds = len({row["seed"] for row in page["rows"]})
    rows = [
        [entry["variant"], *(cell for probe in ("linear_auc", "knn_auc") for cell in _gap(entry, probe))]
        for entry in page["table"]
    ]
    header = ["changed"]
    for probe in (f"linear probe, {seeds} seeds", "k-NN"):
        header += [probe, "difference", "seeds above 0"]
    return table(header, rows)


def _gap(entry: Mapping[str, Any], probe: str) -> list[str]:
    gaps = entry[f"{probe}_gaps"]
    if not any(gaps):  # what all others are held against
        return [f"{entry[probe]:.3f}", "", ""]
    above = sum(gap > 0 for gap in gaps)
    return [f"{entry[probe]:.3f}", f"{statistics.mean(gaps):+.3f}", f"{above} of {len(gaps)}"]


def break_even_block() -> str:
    """Up to how many images an export moves fewer bytes than so many rounds."""
    found = results("break_even")["results"]
    rows = [
        [
            str(row["views"]),
            row["dtype"],
            f"{row['record_bytes']:,}",
            *(f"{count:,}" for count in row["images"].values()),
        ]
        for row in found["rows"]
    ]
    rounds = [f"{count} round{'' if count == '1' else 's'}" for count in found["rows"][0]["images"]]
    return table(("views", "numbers", "bytes an image", *rounds), rows)


def hours_block() -> str:
    """An estimate of what the study takes on real radiographs."""
    page = results("hours")
    images = " and ".join(f"{number:,} ({name})" for name, number in page["settings"]["images"])
    said = prose(
        f"For {images} training radiographs, ViT-S/16 at 224 pixels, one seed; a GPU that sustains "
        f"{page['settings']['teraflops']:g} TFLOP/s:"
    )
    rows = [
        [row["what"], f"{row['operations'] / 1e15:,.0f}", f"{row['gpu_hours']:.1f}", f"{row['cpu_days']:.0f}"]
        for row in page["results"]["rows"]
    ]
    return f"{said}\n\n{table(('what', 'PFLOP', 'GPU hours', 'days on the measured two CPU cores'), rows)}"

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
    """Paired differences to learning alone, without or with DINO at home, to federated averaging, and to MS-DINO."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for entry in results("study")["results"]["summary"]["differences"]:
        if entry["other"] in ("local", "fedavg", "home", "msdino"):
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


def gains(task: str, fraction: float, where: str = "own") -> dict[tuple[str, str], dict[str, Any]]:
    """Of pairs of arms, the difference with its interval."""
    return {
        (entry["arm"], entry["other"]): entry
        for entry in results("study")["results"]["summary"]["differences"]
        if (entry["task"], entry["fraction"], entry["where"]) == (task, fraction, where)
    }


def verdict_block() -> str:
    """What the study says of MS-DINO, in three sentences."""
    summary = results("study")["results"]["summary"]
    few, every = (
        {
            entry["arm"]: f"{entry['own']['mean']:.3f}"
            for entry in summary["scores"]
            if (entry["task"], entry["fraction"]) == ("findings", share)
        }
        for share in (0.1, 1.0)
    )
    primary = [entry["low"] > 0 for entry in summary["differences"] if entry["primary"]]
    succeeds = {
        0: "neither comparison succeeds",
        1: "one of the two comparisons succeeds",
        2: "both comparisons succeed",
    }
    return prose(
        "In the [study](docs/results.md#the-study), five seeds, mean AUC with 10 % of the labels, 48 patients, by "
        f"which we had promised to judge: {few['msdino']} with MS-DINO, {few['local']} learning alone, "
        f"{few['fedavg']} by federated averaging; **{succeeds[sum(primary)]}**. With all 480: {every['msdino']}, "
        f"{every['local']} and {every['fedavg']}, a gain in comparisons that were not promised, nearly all of it "
        "cardiomegaly, and not shown on an unseen hospital. DINO on a hospital's own images, without sharing anything, "
        f"has {few['home']} and {every['home']}; MS-DINO minus that is "
        f"{_said(gains('findings', 0.1)['msdino', 'home'])} and {_said(gains('findings', 1.0)['msdino', 'home'])}. "
        "With five patients no pretraining is shown to help who then learns alone."
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
    """What the other comparisons show; a sentence that no longer follows from the rows is refused."""
    few, fewest, every = (gains("findings", share) for share in (0.1, 0.01, 1.0))
    matters = [few[pair] for pair in (("msdino_codes", "msdino"), ("msdino_open", "msdino"))]
    few_unseen, fewest_unseen, every_unseen = (gains("findings", share, "unseen") for share in (0.1, 0.01, 1.0))
    return _items(
        _if(
            few["central", "local"]["low"] > 0 and few["central", "fedavg"]["corrected"]["low"] < 0,
            "**The yardstick can see a gain, and leaves little room.** DINO on pooled images, the upper bound, gains "
            f"{_said(few['central', 'local'])} over learning alone. Over federated averaging, corrected as the primary "
            f"comparisons are, it has {_said(few['central', 'fedavg']['corrected'])}: it would not pass itself.",
        ),
        _if(
            few["msdino", "local"]["low"] < 0 < few["msdino", "local"]["mean"] and few["msdino", "central"]["high"] < 0,
            f"**MS-DINO is not shown to gain**, {_said(few['msdino', 'local'])}, and is behind the upper bound: "
            f"{_said(few['msdino', 'central'])}.",
        ),
        _if(
            few["home", "local"]["low"] > 0 and few["central", "home"]["low"] < 0 < few["central", "home"]["high"],
            "**DINO at home gains, without any sharing**: on the images of each hospital alone, in as many steps, "
            f"{_said(few['home', 'local'])} over learning alone. That all images in one place, or MS-DINO, would do "
            f"better is not shown: {_said(few['central', 'home'])} and {_said(few['msdino', 'home'])}. This arm was "
            "added after the primary result was known.",
        ),
        _if(
            all(each["low"] < 0 < each["high"] for each in matters),
            "**Neither lost places nor the defences are shown to cost anything by themselves**: with position codes "
            f"in the tokens, which would undo the shuffle, {_said(matters[0])} over MS-DINO; shuffled, but without "
            f"margin, noise and fewer dimensions, {_said(matters[1])}. Costs as large as MS-DINO's own gain are not "
            f"excluded; with the codes the gain over learning alone is shown, {_said(few['msdino_codes', 'local'])}.",
        ),
        "Federated averaging from MS-DINO's body, over the same from scratch: "
        f"{_said(few['msdino_fedavg', 'fedavg'])}.",
        "**Finding by finding** (the table below; 30 intervals, uncorrected), what is above or below zero, minus "
        f"learning alone: {_findings_shown(0.1)}.",
        _if(
            all(few_unseen[arm, "local"]["low"] < 0 for arm in PRETRAINED),
            "**On the unseen hospital** no body pretrained without labels is shown to help in the mean, images in one "
            "place included.",
        ),
        _if(
            all(every[pair]["low"] > 0 for pair in [*((arm, "local") for arm in PRETRAINED), ("msdino", "fedavg")])
            and every["msdino", "home"]["high"] < 0
            and all(every_unseen["msdino", other]["low"] < 0 for other in ("local", "fedavg"))
            and every["msdino_fedavg", "fedavg"]["low"] < 0,
            "**With all labels, 480 patients, at the own hospital, pretraining is ahead**, in comparisons that were "
            f"not promised: MS-DINO {_said(every['msdino', 'local'])} over learning alone, "
            f"{_said(every['msdino', 'fedavg'])} over federated averaging and {_said(every['msdino', 'pooled'])} over "
            f"all labels in one place; DINO at home {_said(every['home', 'local'])}, pooled images "
            f"{_said(every['central', 'local'])} over learning alone. MS-DINO is behind DINO at home, "
            f"{_said(every['msdino', 'home'])}; on the unseen hospital its gain is not shown, "
            f"{_said(every_unseen['msdino', 'local'])}; before federated averaging it is not, either, "
            f"{_said(every['msdino_fedavg', 'fedavg'])}. Minus learning alone, finding by finding: "
            f"{_findings_shown(1.0)}. All arms learn in as many steps as with few labels, here 10 epochs, half of them "
            "warm-up; a part of the gain may be a faster "
            "start, for on one tuning seed less of it is left after 30 epochs "
            "([trial](pretraining-notes.md#does-learning-longer-make-up-for-it)).",
        ),
        _if(
            all(fewest[arm, "local"]["low"] <= 0 for arm in PRETRAINED)
            and all(fewest_unseen[arm, "fedavg"]["high"] < 0 for arm in PRETRAINED if arm != "home"),
            "**With 1 % of the labels, five patients, no pretraining is shown to help who then learns alone**: MS-DINO "
            f"{_said(fewest['msdino', 'local'])} over learning alone from scratch, DINO at home "
            f"{_said(fewest['home', 'local'])}, pooled images {_said(fewest['central', 'local'])}. Federated averaging "
            f"has {_said(fewest['fedavg', 'local'])}, from MS-DINO's body {_said(fewest['msdino_fedavg', 'local'])}, "
            "but takes its best round by the labels of the validation patients, of whom there are 32 times as many; no "
            "arm without a federation looks at them. On the unseen hospital MS-DINO is worse than federated averaging: "
            f"{_said(fewest_unseen['msdino', 'fedavg'])}.",
        ),
    )


PRETRAINED = ("central", "home", "msdino", "msdino_codes", "msdino_open")


def _if(holds: bool, sentence: str) -> str:
    if not holds:
        raise SystemExit(f"The study's rows do not say this any more; mend docs/figures_of_study.py: {sentence}")
    return sentence


def _said(found: Mapping[str, Any]) -> str:
    return with_ends(found, "+")


def _findings_shown(fraction: float) -> str:
    """Which findings each pretrained body is shown to help or to harm with a share of the labels, own hospital."""
    shown: dict[str, list[str]] = {arm: [] for arm in PRETRAINED}
    for entry in results("study")["results"]["summary"]["class_differences"]:
        ours = (entry["task"], entry["fraction"], entry["where"]) == ("findings", fraction, "own")
        if ours and entry["arm"] in shown and not entry["low"] <= 0 <= entry["high"]:
            shown[entry["arm"]].append(f"{entry['class'].replace('_', ' ')} {entry['mean']:+.2f}")
    return "; ".join(f"`{arm}` {', '.join(found) or 'nothing'}" for arm, found in shown.items())


def class_differences_block(task: str) -> str:
    """Each class for itself: what an arm adds to learning alone."""
    cells: dict[tuple[float, str, str], dict[str, str]] = {}
    for entry in results("study")["results"]["summary"]["class_differences"]:
        if entry["task"] == task:
            cell = cells.setdefault((entry["fraction"], entry["arm"], entry["where"]), {})
            cell[entry["class"]] = f"{entry['mean']:+.2f} ({entry['low']:+.2f} to {entry['high']:+.2f})"
    classes = list(next(iter(cells.values())))
    rows = [
        [f"{100 * fraction:g} %", f"`{arm}`", where, *(cell[name] for name in classes)]
        for (fraction, arm, where), cell in sorted(cells.items(), key=lambda each: each[0][0])
    ]
    return table(("labels", "arm", "hospital", *(name.replace("_", " ") for name in classes)), rows)


def _items(*texts: str) -> str:
    return "".join("- " + prose(text).rstrip("\n").replace("\n", "\n  ") + "\n" for text in texts)


def ablation_block() -> str:
    """Probes of every variant of MS-DINO, and how far they are from the study's."""
    rows = [
        [entry["variant"], *(cell for probe in ("linear", "knn") for cell in _probe(entry, probe))]
        for entry in results("ablation")["results"]["table"]
    ]
    header = [cell for probe in ("linear probe", "k-NN") for cell in (probe, "difference", "seeds above 0")]
    return table(("changed", *header), rows)


def _probe(entry: Mapping[str, Any], probe: str) -> list[str]:
    mean, difference = f"{entry[probe]['mean']:.3f}", entry.get(f"{probe}_difference")
    if difference is None:  # what all others are held against
        return [mean, "", ""]
    return [mean, _said(difference), f"{difference['above']} of {len(difference['values'])}"]


def longer_block() -> str:
    """What bodies add when everybody learns longer."""
    page = results("longer")
    columns = {"own": "AUC", "as_long": "minus `local`, as many epochs", "longest": "minus `local`, most epochs"}
    rows = [
        [f"`{entry['arm']}`", str(entry["epochs"]), with_ends(entry["own"])]
        + [_said(entry[name]) if name in entry else "" for name in ("as_long", "longest")]
        for entry in page["results"]["table"]
    ]
    seeds = ", ".join(map(str, page["settings"]["seeds"]))
    return table((f"arm, seed {seeds}", "epochs", *columns.values()), rows)


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

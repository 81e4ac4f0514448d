"""FLAP-SAM with its choices crossed: what is trained, how it is averaged, how it travels, and between how many.

    python benchmarks/study/federation.py --work_dir federation --output_file docs/benchmarks/federation_grid.json

SYNTHETIC hospitals train LiteMedSAM's real weights, each row by one run of the verb `federate`. Beside the federations
stands what each hospital learns alone, of the same parts in as many epochs. Every best model by validation is tried on
the test volumes of all hospitals. Run again to continue; `--modes flap --transports int8` makes some of the rows, and
the table shows all that lie in the work folder.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import numpy as np
from commands import Command, Cost, bundle, code_of, once, ours, run, work_through
from federated import BUNDLE, CLASSES, MODES, add_sizes, read, write_sites
from measuring import machine, parser_of, report, save, write_json

TRANSPORTS = ("fp32", "bf16", "int8")
WITH_PAIRS = ("flap", "lora", "lora_decoder")  # of LoRA; only they can be averaged as products

# What makes a row another row.
LENGTHS = ("rounds", "local_epochs")
OF_THE_BUNDLE = ("size", "image_size", "stacks_per_volume", "batch_size", "learning_rate", "full_learning_rate")
OF_THE_COHORT = ("patients", "slices")

Row = dict[str, Any]


@dataclass(frozen=True)
class Way:
    """One row: `strategy` averages what `mode` trains at the first `sites` hospitals; `alone`, a single one trains."""

    mode: str
    strategy: str
    transport: str
    sites: tuple[str, ...]

    @property
    def name(self) -> str:
        return "_".join((self.mode, self.strategy, self.transport, *self.sites))


def ways(modes: Sequence[str], transports: Sequence[str], numbers_of_sites: Sequence[int]) -> Iterator[Way]:
    """First what each hospital learns alone, then every federation."""
    sites = [f"site_{letter}" for letter in "abcdef"[: max(numbers_of_sites)]]
    for mode in modes:
        yield from (Way(mode, "alone", "none", (site,)) for site in sites)
    for number in sorted(numbers_of_sites, reverse=True):
        for transport in transports:
            for mode in modes:
                for strategy in ("fedavg", "flap")[: 1 + (mode in WITH_PAIRS)]:
                    yield Way(mode, strategy, transport, tuple(sites[:number]))


def make_row(way: Way, seed: int, arguments: argparse.Namespace) -> Row:
    """The row of one seed, made now if it is not there yet."""
    folder = arguments.work_dir / f"seed_{seed}"
    place = folder / "rows" / way.name
    path = place / "row.json"
    if path.exists():
        return read_row(path, arguments)
    code = code_of([BUNDLE.name], asdict(way))
    model, cost = train(way, seed, folder, place, arguments)
    test = bundle(
        BUNDLE.name, ["train", "evaluate"], dataset_dir=folder / "sites", datalist=folder / "test.json",
        output_dir=place / "test", bootstrap_repeats=10, overlap=0, num_workers=0, model=model,
    )  # fmt: skip
    once(place / "test", lambda made: run(test, made / "log.txt"))
    row = {
        **asdict(way), "seed": seed, "settings": settings_of(arguments),
        "dice": dice_of(place / "test" / "cases.csv"),
        "site_cpu_seconds": cost.cpu_seconds / len(way.sites),  # FLARE's own among them
        "peak_mb": cost.peak_mb, "resumed": cost.resumed, "code_sha256": code, "machine": machine(),
        **({} if way.strategy == "alone" else {"bytes": read(place)["bytes"], "rounds": arguments.rounds}),
    }  # fmt: skip
    write_json(path, row, indent=1)
    return row


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in (*LENGTHS, *OF_THE_BUNDLE)}


def read_row(path: Path, arguments: argparse.Namespace) -> Row:
    row: Row = json.loads(path.read_text(encoding="utf-8"))
    same_as_before(path, row["settings"], settings_of(arguments))
    return row


def rows_there(arguments: argparse.Namespace) -> list[Row]:
    """All that lie in the work folder, of these seeds."""
    every = [*ways(MODES, TRANSPORTS, range(2, arguments.hospitals + 1))]
    paths = [
        arguments.work_dir / f"seed_{seed}" / "rows" / way.name / "row.json"
        for seed in arguments.seeds
        for way in every
    ]
    return [read_row(path, arguments) for path in paths if path.exists()]


def same_as_before(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    if before != now:
        raise SystemExit(f"{path} was made with other settings; use the same ones, or another --work_dir.")


def prepare(folder: Path, seed: int, arguments: argparse.Namespace) -> None:
    """The hospitals of a seed, and one datalist of all their test volumes."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "hospitals.json"
    cohort = {"sites": arguments.hospitals, **{name: getattr(arguments, name) for name in OF_THE_COHORT}}
    if path.exists():
        same_as_before(path, json.loads(path.read_text(encoding="utf-8")), cohort)
        return
    write_sites(folder, argparse.Namespace(**cohort, seed=seed))
    write_json(path, cohort)


def train(way: Way, seed: int, folder: Path, place: Path, arguments: argparse.Namespace) -> tuple[Path, Cost]:
    rate = arguments.full_learning_rate if way.mode == "full" else arguments.learning_rate
    given = {name: getattr(arguments, name) for name in OF_THE_BUNDLE if not name.endswith("learning_rate")}
    # This SAM looks at every slice by itself: overlap would change nothing but the time.
    given |= {"learning_rate": rate, "seed": seed, "trainable": way.mode, "overlap": 0, "num_workers": 0}
    command: Command
    if way.strategy == "alone":
        command = bundle(
            BUNDLE.name, ["train"], dataset_dir=folder / "sites" / way.sites[0], output_dir=place,
            max_epochs=arguments.rounds * arguments.local_epochs, **given,
        )  # fmt: skip
        model = place / "models" / "model.pt"
    else:
        command = ours(
            "federate", bundle=BUNDLE, sites_dir=folder / "sites", sites=",".join(way.sites),
            output_dir=place / "federation", rounds=arguments.rounds, local_epochs=arguments.local_epochs,
            strategy=way.strategy, transport=way.transport,
            set=",".join(f"{name}={value}" for name, value in given.items()),
        )  # fmt: skip
        model = place / "federation" / "global" / "model.pt"
    return model, once(place, lambda made: run(command, made / "log.txt"))


def dice_of(cases: Path) -> dict[str, dict[str, float | None]]:
    """For each hospital the mean over its test volumes that have the class; None where none has."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: {name: [] for name in CLASSES})
    with cases.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            values = found[row["file"].partition("/")[0]][row["class"]]
            if float(row["truth_voxels"]):
                values.append(float(row["dice"]))
    return {site: {name: _mean(values) for name, values in classes.items()} for site, classes in found.items()}


def mean_dice(row: Row, site: str) -> float:
    """Over the classes that the hospital's test volumes have: the same ones for every model of a seed."""
    return float(np.mean([value for value in row["dice"][site].values() if value is not None]))


def summarise(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Of each way the means over seeds and the hospitals that took part, and what each gained over learning alone."""
    alone = {
        (row["mode"], row["seed"], row["sites"][0]): mean_dice(row, row["sites"][0])
        for row in rows
        if row["strategy"] == "alone"
    }
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        number = 1 if row["strategy"] == "alone" else len(row["sites"])
        groups.setdefault((row["mode"], row["strategy"], row["transport"], number), []).append(row)
    table = []
    for (mode, strategy, transport, number), mine in groups.items():
        own = [(row, site) for row in mine for site in row["sites"]]
        gains = [mean_dice(row, site) - alone[key] for row, site in own if (key := (mode, row["seed"], site)) in alone]
        entry: dict[str, Any] = {
            "mode": mode, "strategy": strategy, "transport": transport, "sites": number,
            "seeds": len({row["seed"] for row in mine}),
            "dice": float(np.mean([mean_dice(row, site) for row, site in own])),
            **{name: _mean([row["dice"][site][name] for row, site in own]) for name in CLASSES},
            "dice_per_site": {
                site: float(np.mean([mean_dice(row, site) for row, where in own if where == site]))
                for site in sorted({site for _, site in own})
            },
            "site_cpu_seconds": _mean([row["site_cpu_seconds"] for row in mine if not row["resumed"]]),
            "peak_mb": max(row["peak_mb"] for row in mine),
        }  # fmt: skip
        if strategy != "alone":
            entry["gains"] = gains
            for name, direction in (("up", "to_server"), ("down", "to_site")):
                for kind in ("tensor", "wire"):
                    sent = [row["bytes"][direction][kind] for row in mine]
                    entry[f"{kind}_bytes_{name}"] = float(np.mean(sent))
        table.append(entry)
    return table


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def show(table: Sequence[dict[str, Any]]) -> None:
    lines = [
        [
            entry["mode"], entry["strategy"], entry["transport"], entry["sites"], entry["seeds"],
            *(entry[name] for name in (*CLASSES, "dice")),
            *(
                (float(np.mean(gains)), f"{sum(each > 0 for each in gains)} of {len(gains)}")
                if (gains := entry.get("gains"))
                else ("-", "-")
            ),
            *(entry.get(f"wire_bytes_{name}", 0) / 1e6 for name in ("up", "down")),
            "-" if entry["site_cpu_seconds"] is None else entry["site_cpu_seconds"],
        ]
        for entry in table
    ]  # fmt: skip
    header = ("trained", "averaged", "transport", "sites", "seeds", *CLASSES, "mean", "gain", "sites above 0")
    report(
        "Dice on the test volumes of the hospitals that took part, SYNTHETIC",
        (*header, "MB up a round", "MB down", "CPU s a hospital"),
        lines,
    )


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--work_dir", type=Path, required=True, help="where hospitals and models lie; kept")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES, metavar="MODE", help=", ".join(MODES))
    parser.add_argument("--transports", nargs="+", choices=TRANSPORTS, default=TRANSPORTS)
    parser.add_argument("--hospitals", type=int, default=3, help="that there are")
    parser.add_argument("--numbers_of_sites", nargs="+", type=int, default=[3, 2], help="how many of them take part")
    parser.add_argument("--seeds", nargs="+", type=int, default=[11])
    add_sizes(parser)
    parser.add_argument("--workers", type=int, default=2, help="rows made at a time, each on one core")
    arguments = parser.parse_args()
    if not all(2 <= number <= arguments.hospitals <= 6 for number in arguments.numbers_of_sites):
        parser.error("--numbers_of_sites are from 2 to --hospitals, of which there are at most 6.")
    started_on = machine()
    arguments.work_dir = arguments.work_dir.absolute()
    for seed in arguments.seeds:
        prepare(arguments.work_dir / f"seed_{seed}", seed, arguments)
    jobs = {
        f"{way.name}, seed {seed}": partial(make_row, way, seed, arguments)
        for seed in arguments.seeds
        for way in ways(arguments.modes, arguments.transports, arguments.numbers_of_sites)
    }
    work_through(jobs, arguments.workers)
    rows = rows_there(arguments)
    table = summarise(rows)
    show(table)
    save(arguments, started_on, {"table": table, "rows": rows})


if __name__ == "__main__":
    main()

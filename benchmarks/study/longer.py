"""Does learning longer make up for what a pretrained body gives? Findings with all labels, SYNTHETIC, tuning seeds.

    python benchmarks/study/longer.py --work_dir ablation --output_file docs/benchmarks/longer.json

The study's rows take 10 epochs where all labels are used, half of them warm-up. Here learning alone takes longer ones,
too, with a warm-up of a tenth, from scratch and from bodies; all are tested on the hospital's own test patients. With
the work folder of ablation.py its cohorts and exports are used again.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from cases import Cases, read_cases
from commands import work_through
from measuring import machine, parser_of, report, save
from paired import Pair, Single, estimate
from protocol import ARMS, SIZES, TASKS, WARMUP_SHARE, Protocol
from ways import Seed

TASK = TASKS["findings"]
Key = tuple[str, int, int, str]  # arm, epochs, seed, hospital


def learn(protocol: Protocol, folder: Path, key: Key) -> Cases:
    """What a model says of its hospital's test images; made once."""
    arm, epochs, number, site = key
    finetuning = {**protocol.finetuning, WARMUP_SHARE: 0.1}
    seed = Seed(replace(protocol, epochs={1.0: epochs}, finetuning=finetuning), folder / f"seed_{number}", number)
    place = seed.folder / "longer" / f"{arm}_{epochs}_{site}"
    model, _ = seed.learn(ARMS[arm], TASK, place, site, 1.0)
    return read_cases(seed.test(TASK, model, place / "test", [site]))[site]


def summarise(said: Mapping[Key, Cases], arms: Sequence[str], lengths: Sequence[int]) -> list[dict[str, Any]]:
    """Of each arm and length the mean AUC, and what it adds to learning from scratch for as long, and for longest."""

    def of(arm: str, epochs: int) -> dict[tuple[int, str], Cases]:
        return {(key[2], key[3]): cases for key, cases in said.items() if key[:2] == (arm, epochs)}

    table = []
    for arm in arms:
        for epochs in lengths:
            mine = of(arm, epochs)
            own = estimate([Single(where[0], cases) for where, cases in mine.items()])
            entry: dict[str, Any] = {"arm": arm, "epochs": epochs, "own": asdict(own)}
            if arm != "local":
                for name, length in (("as_long", epochs), ("longest", max(lengths))):
                    base = of("local", length)
                    entry[name] = asdict(estimate([Pair(where[0], mine[where], base[where]) for where in mine]))
            table.append(entry)
    return table


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--work_dir", type=Path, required=True, help="where cohorts, exports and bodies lie; kept")
    parser.add_argument("--size", choices=list(SIZES), default="study")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=["msdino", "home"], help="beside local")
    parser.add_argument("--epochs", type=int, nargs="+", default=[10, 30])
    parser.add_argument("--seeds", type=int, nargs="+", default=[100])
    parser.add_argument("--workers", type=int, default=2, help="models made at a time, each on one core")
    arguments = parser.parse_args()
    started_on, protocol, work = machine(), SIZES[arguments.size], arguments.work_dir.absolute()
    arms = ["local", *(arm for arm in arguments.arms if arm != "local")]
    if federated := [arm for arm in arms if ARMS[arm].learning != "alone"]:
        parser.error(f"{federated[0]} does not learn alone.")
    keys = [
        (arm, epochs, seed, site)
        for seed in arguments.seeds
        for arm in arms
        for site in protocol.learners
        for epochs in arguments.epochs
    ]
    jobs = {" ".join(map(str, key)): partial(learn, protocol, work, key) for key in keys}
    table = summarise(dict(zip(keys, work_through(jobs, arguments.workers), strict=True)), arms, arguments.epochs)
    lines = [[entry["arm"], entry["epochs"], *(_ranged(entry.get(name)) for name in COLUMNS)] for entry in table]
    report("AUC of findings, own test patients, all labels, SYNTHETIC", ("arm", "epochs", *COLUMNS.values()), lines)
    save(arguments, started_on, {"table": table})


COLUMNS = {
    "own": "AUC",
    "as_long": "minus local, as many epochs",
    "longest": "minus local, most epochs",
}


def _ranged(found: Mapping[str, float] | None) -> str:
    return f"{found['mean']:.3f} ({found['low']:.3f} to {found['high']:.3f})" if found else "-"


if __name__ == "__main__":
    main()

"""The study: what both papers claim, side by side on SYNTHETIC hospitals; its protocol is docs/study-protocol.md.

    python benchmarks/study --work_dir study --output_file docs/benchmarks/study.json

Every model is a row: how it was come by (arm), what it learnt, from which share of whose labels, on which seed. Run
again to continue; finished rows are kept. `--arms msdino,local --tasks findings --seeds 11` makes some rows.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from measuring import machine, parser_of, save
from protocol import ARMS, SIZES, TASKS, Protocol
from rows import Row, make_row, name_of
from table import show, summarise
from ways import Seed, places


def make(protocol: Protocol, arguments: argparse.Namespace) -> list[Row]:
    """All rows that are asked for; a row that fails does not keep the others from being made."""
    rows, failed, started = [], [], time.monotonic()
    with ThreadPoolExecutor(arguments.workers) as pool:
        asked = {}
        for number in arguments.seeds or protocol.seeds:
            seed = Seed(protocol, arguments.work_dir / f"seed_{number}", number)
            for key in places(protocol, arguments.arms, arguments.tasks):
                asked[pool.submit(make_row, protocol, arguments.work_dir, seed, key)] = f"{name_of(key)}, seed {number}"
        for done, future in enumerate(as_completed(asked), start=1):
            error = future.exception()
            if error is None:
                rows.append(future.result())
            else:
                failed.append(f"{asked[future]}: {error}")
            minutes = (time.monotonic() - started) / 60
            print(f"{done} of {len(asked)} rows, {minutes:.0f} min: {asked[future]}", flush=True)
    if failed:
        raise SystemExit("\n".join(["These rows failed; run again to repeat them.", *failed]))
    return rows


def names(known: Sequence[str]) -> object:
    def read(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(known)}")
        return chosen

    return read


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--work_dir", type=Path, required=True, help="where cohorts, bodies, models and rows lie; kept")
    parser.add_argument("--size", choices=list(SIZES), default="study")
    parser.add_argument("--arms", type=names(list(ARMS)), default=list(ARMS))  # type: ignore[arg-type]
    parser.add_argument("--tasks", type=names(list(TASKS)), default=list(TASKS))  # type: ignore[arg-type]
    parser.add_argument("--seeds", type=int, nargs="+", help="by default those of the protocol")
    parser.add_argument("--workers", type=int, default=2, help="rows made at a time, each on one core")
    arguments = parser.parse_args()
    started_on, protocol = machine(), SIZES[arguments.size]
    arguments.work_dir = arguments.work_dir.absolute()
    rows = make(protocol, arguments)
    summary = summarise(rows, arguments.work_dir, protocol)
    show(summary)
    slim = [{name: value for name, value in row.items() if name != "machine"} for row in rows]
    save(arguments, started_on, {"protocol": asdict(protocol), "summary": summary, "rows": slim})


if __name__ == "__main__":
    main()

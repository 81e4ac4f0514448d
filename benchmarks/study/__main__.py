r"""The study: what both papers claim, side by side on SYNTHETIC hospitals; its protocol is docs/study-protocol.md.

    python benchmarks/study --work_dir study --output_file docs/benchmarks/study.json

Every model is a row: how it was come by (arm), what it learnt, from which share of whose labels, on which seed. Run
again to continue; finished rows are kept. `--arms msdino,local --tasks findings --fractions 0.1` makes some cells; the
output file keeps what other cells it has of the same protocol. To see whether rows come out as published, on the same
kind of machine:

    python benchmarks/study --work_dir again --arms msdino --tasks findings --fractions 0.1 --seeds 11 \
        --compared_with docs/benchmarks/study.json

What every model said of the test images is kept beside the output file; tables and plot are computed from it, and can
be so without making a row:

    python benchmarks/study --tables_only --output_file docs/benchmarks/study.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from cases import Cases, read_cases
from earlier import differing, join
from measuring import machine, parser_of, save
from plot import draw
from protocol import ARMS, SIZES, TASKS, Protocol
from rows import Row, digest, make_row, name_of
from said import folder_of, key_of, read, write
from table import WHERE, show, summarise, tested
from ways import Seed, places


def make(protocol: Protocol, arguments: argparse.Namespace) -> list[Row]:
    """All rows that are asked for; a row that fails does not keep the others from being made."""
    rows, failed, started = [], [], time.monotonic()
    with ThreadPoolExecutor(arguments.workers) as pool:
        asked = {}
        for number in arguments.seeds or protocol.seeds:
            seed = Seed(protocol, arguments.work_dir / f"seed_{number}", number, arguments.sites_dir)
            fractions = arguments.fractions or protocol.fractions
            for key in places(protocol, arguments.arms, arguments.tasks, fractions):
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


def said_of(row: Row, work: Path, protocol: Protocol) -> dict[str, Cases]:
    """What a row's model said of the hospitals that its tables look at."""
    sites = {site for where in WHERE for _, site in tested(row, where, protocol)}
    return {site: cases for site, cases in read_cases(work / row["cases"]).items() if site in sites}


def names(known: Sequence[str] | None = None) -> Callable[[str], tuple[str, ...]]:
    """Reads names with commas between them."""

    def read(text: str) -> tuple[str, ...]:
        chosen = tuple(text.split(","))
        if known is not None and (unknown := [name for name in chosen if name not in known]):
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(known)}")
        return chosen

    return read


def protocol_of(arguments: argparse.Namespace) -> Protocol:
    """The size that was named; for hospitals of one's own, with their names."""
    given = {name: getattr(arguments, name) for name in ("hospitals", "learners", "unseen", "img_size")}
    changed = {name: value for name, value in given.items() if value is not None}
    if changed and not arguments.sites_dir:
        raise SystemExit(f"--{next(iter(changed))} is fixed by the protocol; it belongs to --sites_dir.")
    return replace(SIZES[arguments.size], **changed)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--work_dir", type=Path, help="where cohorts, bodies, models and rows lie; kept")
    parser.add_argument("--size", choices=list(SIZES), default="study")
    parser.add_argument(
        "--sites_dir", type=Path, help="hospitals to study instead of the cohort; see docs/real-data.md"
    )
    parser.add_argument("--hospitals", type=names(), help="with --sites_dir: those that take part")
    parser.add_argument("--learners", type=names(), help="with --sites_dir: those that fine-tune")
    parser.add_argument("--unseen", help="with --sites_dir: one that never takes part")
    parser.add_argument("--img_size", type=int)
    parser.add_argument("--arms", type=names(list(ARMS)), default=list(ARMS))
    parser.add_argument("--tasks", type=names(list(TASKS)), default=list(TASKS))
    parser.add_argument("--fractions", type=float, nargs="+", help="shares of labels, of those of the protocol")
    parser.add_argument("--seeds", type=int, nargs="+", help="by default those of the protocol")
    parser.add_argument("--workers", type=int, default=2, help="rows made at a time, each on one core")
    parser.add_argument("--tables_only", action="store_true", help="from the output file; no row is made")
    parser.add_argument("--compared_with", type=Path, help="a result file; status 1 if a row has other scores there")
    arguments = parser.parse_args()
    started_on, protocol = machine(), protocol_of(arguments)
    if unknown := set(arguments.fractions or ()) - protocol.epochs.keys():
        parser.error(f"--fractions takes {', '.join(map(str, protocol.epochs))}, got {min(unknown)}.")
    if arguments.tables_only:
        if not (arguments.output_file and arguments.output_file.exists()):
            parser.error("--tables_only computes from --output_file; name one that is there.")
        rows, said = [], {}
    else:
        if not arguments.work_dir:
            parser.error("name a --work_dir; what is made there is kept, and the study goes on with it.")
        arguments.work_dir = arguments.work_dir.absolute()
        arguments.sites_dir = arguments.sites_dir and arguments.sites_dir.absolute()
        rows = make(protocol, arguments)
        said = {key_of(row): said_of(row, arguments.work_dir, protocol) for row in rows}
    if arguments.compared_with:
        if different := differing(rows, arguments.compared_with):
            raise SystemExit("\n".join([f"These rows are not as in {arguments.compared_with}:", *map(str, different)]))
        print(f"{len(rows)} rows have the same scores as in {arguments.compared_with}.")
    path = arguments.output_file or arguments.work_dir / "study.json"
    if path.exists():
        rows = join(path, rows, {name: digest(protocol.of(task)) for name, task in TASKS.items()})
    said = {**read(folder_of(path)), **said}
    if missing := [key_of(row) for row in rows if key_of(row) not in said]:
        raise SystemExit(f"{folder_of(path)} does not hold what {missing[0]} said; make that row again.")
    write(folder_of(path), {key_of(row): said[key_of(row)] for row in rows})
    rows.sort(key=key_of)
    slim = [{name: value for name, value in row.items() if name not in ("machine", "cases")} for row in rows]
    summary = summarise(rows, read(folder_of(path)), protocol)
    show(summary)
    draw(summary, path.with_suffix(".png"))
    found = {"protocol": asdict(protocol), "summary": summary, "rows": slim}
    if arguments.tables_only:
        page = {**json.loads(path.read_text(encoding="utf-8")), "results": found}
        path.write_text(json.dumps(page, indent=2) + "\n", encoding="utf-8")
    else:
        save(arguments, started_on, found)


if __name__ == "__main__":
    main()

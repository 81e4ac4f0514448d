r"""The study: what both papers claim, side by side on SYNTHETIC hospitals; its protocol is docs/study-protocol.md.

    python benchmarks/study --work_dir study --output_file docs/benchmarks/study.json

Every model is a row: how it was come by (arm), what it learnt, from which share of whose labels, on which seed. Run
again to continue; finished rows are kept. `--arms msdino,local --tasks findings --fractions 0.1` makes some cells; the
output file keeps what other cells it has of the same protocol. To see whether rows come out as published, on the same
kind of machine:

    python benchmarks/study --work_dir again --arms msdino --tasks findings --fractions 0.1 --seeds 11 \
        --compared_with docs/benchmarks/study.json

What models said of the test images is kept beside the output file (no names; but labels, one by one, of real patients,
too). Tables and plot are computed from it, and can be so without making a row:

    python benchmarks/study --tables_only --output_file docs/benchmarks/study.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from cases import Cases, read_cases
from commands import work_through
from earlier import differing, join, published
from measuring import machine, parser_of, save, write_json
from plot import draw
from protocol import ARMS, SIZES, TASKS, Protocol
from rows import Row, digest, make_row, name_of
from said import Key, check, folder_of, key_of, read, without_names, write
from table import show, summarise
from ways import Seed, places


def asked_for(protocol: Protocol, arguments: argparse.Namespace) -> list[Key]:
    """Every row that this sitting makes, or finds made."""
    fractions = arguments.fractions or protocol.fractions
    return [
        (task, fraction, arm, site, number)
        for number in arguments.seeds or protocol.seeds
        for arm, task, fraction, site in places(protocol, arguments.arms, arguments.tasks, fractions)
    ]


def make(protocol: Protocol, keys: Sequence[Key], arguments: argparse.Namespace) -> list[Row]:
    """These rows, those that were made before among them."""
    work, jobs = arguments.work_dir, {}
    seeds = {number: Seed(protocol, work / f"seed_{number}", number, arguments.sites_dir) for *_, number in keys}
    for task, fraction, arm, site, number in keys:
        key = (arm, task, fraction, site)
        jobs[f"{name_of(key)}, seed {number}"] = partial(make_row, protocol, work, seeds[number], key)
    return work_through(jobs, arguments.workers)


def said_of(row: Row, work: Path, protocol: Protocol) -> dict[str, Cases]:
    """What a row's model said of the hospitals that its tables look at."""
    found = read_cases(work / row["cases"])
    return {site: without_names(found[site], site) for site in protocol.tested_on(row["site"])}


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


def arguments_of() -> argparse.Namespace:
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
    parser.add_argument("--replace", action="store_true", help="rows that have other scores in the output file")
    arguments = parser.parse_args()
    known = SIZES[arguments.size].epochs
    if unknown := set(arguments.fractions or ()) - known.keys():
        parser.error(f"--fractions takes {', '.join(map(str, known))}, got {min(unknown)}.")
    if arguments.tables_only and (arguments.compared_with or not arguments.output_file):
        parser.error("--tables_only makes no row; it takes an --output_file that is there, and no --compared_with.")
    if not arguments.tables_only and not arguments.work_dir:
        parser.error("name a --work_dir; what is made there is kept, and the study goes on with it.")
    arguments.work_dir = arguments.work_dir and arguments.work_dir.absolute()
    arguments.sites_dir = arguments.sites_dir and arguments.sites_dir.absolute()
    return arguments


def main() -> None:
    arguments = arguments_of()
    started_on, protocol = machine(), protocol_of(arguments)
    digests = {name: digest(protocol.of(task)) for name, task in TASKS.items()}
    path = arguments.output_file or arguments.work_dir / "study.json"
    before = published(path, digests) if arguments.tables_only or path.exists() else []
    said = read(folder_of(path))
    check(before, said)
    rows = [] if arguments.tables_only else make_and_compare(protocol, digests, arguments)
    rows = sorted(join(before, rows, replace=arguments.replace), key=key_of)
    said |= {key_of(row): said_of(row, arguments.work_dir, protocol) for row in rows if "cases" in row}
    write(folder_of(path), {key_of(row): said[key_of(row)] for row in rows})
    summary = summarise(rows, read(folder_of(path)), protocol)
    show(summary)
    draw(summary, path.with_suffix(".png"))
    slim = [{name: value for name, value in row.items() if name != "cases"} for row in rows]
    found = {"protocol": asdict(protocol), "summary": summary, "rows": slim}
    if arguments.tables_only:
        write_json(path, {**json.loads(path.read_text(encoding="utf-8")), "results": found})
    else:
        save(arguments, started_on, found)


def make_and_compare(protocol: Protocol, digests: Mapping[str, str], arguments: argparse.Namespace) -> list[Row]:
    """The rows that are asked for; what can be refused is refused before they are made."""
    keys, other = asked_for(protocol, arguments), arguments.compared_with
    reference = published(other, digests) if other else []
    if other and (missing := [key for key in keys if key not in map(key_of, reference)]):
        raise SystemExit(f"{other} has no row {missing[0]}; name rows that it has.")
    rows = make(protocol, keys, arguments)
    if found := differing(rows, reference):
        raise SystemExit("\n".join([f"These rows are not as in {other}:", *found]))
    if other:
        print(f"{len(rows)} rows have the same scores as in {other}.")
    return rows


if __name__ == "__main__":
    main()

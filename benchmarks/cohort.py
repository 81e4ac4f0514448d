"""How many radiographs of the SYNTHETIC cohort one core writes in a minute: image, masks, encoding and files.

    python benchmarks/cohort.py --output_file docs/benchmarks/cohort.json

The process is pinned to one core; sites take turns.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from measuring import machine, parser_of, report, save, spread, take_turns

from msdino_monai.images.cohort.folder import write_visit
from msdino_monai.images.cohort.plan import Visit, visits
from msdino_monai.images.cohort.scanner import site_name


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--images_per_site", type=int, default=60)
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--image_sizes", type=int, nargs="+", default=[512, 256])
    arguments = parser.parse_args()
    started_on = machine()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    results, rows = {}, []
    for image_size in arguments.image_sizes:
        with tempfile.TemporaryDirectory() as folder:
            sides = {}
            for site in range(arguments.sites):
                plan = iter(visits(arguments.seed, site, arguments.images_per_site + 1))
                sides[site_name(site)] = partial(_write_next, Path(folder, site_name(site)), plan, image_size)
            seconds = take_turns(sides, arguments.images_per_site, warmup=1)
        for name, times in seconds.items():
            rate, one = 60.0 * len(times) / sum(times), spread(times)
            results[f"{name}, {image_size} px"] = {"images_per_minute": rate, "seconds_per_image": one}
            rows.append([f"{name}, {image_size} px", rate, *(1000 * one[key] for key in ("median", "q1", "q3"))])
    report("SYNTHETIC cohort on one core", ["site", "images/minute", "ms", "q1", "q3"], rows)
    save(arguments, started_on, results)


def _write_next(folder: Path, plan: Iterator[Visit], image_size: int) -> None:
    write_visit(folder, next(plan), image_size)


if __name__ == "__main__":
    main()

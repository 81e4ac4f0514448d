"""How long one privacy audit takes as a hospital runs it, and what it finds of a SYNTHETIC one.

    python benchmarks/privacy_audit.py --work_dir W --output_file docs/benchmarks/privacy_audit.json

The audit's own command with the settings it begins with, on the radiographs of one hospital.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from measuring import machine, parser_of, report, save
from pretraining_value import bundle, pairs

from msdino_monai.images.cohort import write_cohort


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--work_dir", type=Path, required=True, help="where the cohort and the audit lie; kept")
    parser.add_argument("--patients", type=int, default=480)
    parser.add_argument("--image_size", type=int, default=256, help="longer side of the stored radiographs")
    parser.add_argument("--audit", nargs="*", default=[], metavar="NAME=VALUE", help="settings other than its own")
    arguments = parser.parse_args()
    started_on, work = machine(), arguments.work_dir
    write_cohort(str(work / "cohort"), 1, arguments.patients, arguments.seed, arguments.image_size)
    begun = time.perf_counter()
    try:
        bundle(
            "cxr_embedding_export", ["privacy_audit"], work / "log.txt",
            dataset_dir=work / "cohort" / "site_a" / "images", output_dir=work / "audit", seed=arguments.seed,
            **pairs(arguments.audit),
        )  # fmt: skip
    except RuntimeError:
        if not (work / "audit" / "audit.json").exists():
            raise  # with one, it has done its work and the settings failed
    seconds = time.perf_counter() - begun
    page = json.loads((work / "audit" / "audit.json").read_text(encoding="utf-8"))
    radiographs = len(list((work / "cohort" / "site_a" / "images").iterdir()))
    checks = page["verdict"]["checks"]
    lines = [[check["threshold"], check["figure"], check["limit"], check["attack"]] for check in checks]
    report(
        f"{radiographs} radiographs, {seconds:.0f} s, {page['verdict']['result']}",
        ("threshold", "reached", "limit", "by"), lines,
    )  # fmt: skip
    kept = {name: page[name] for name in ("verdict", "images", "audit", "seconds")}
    save(arguments, started_on, {"radiographs": radiographs, "wall_seconds": seconds, **kept})


if __name__ == "__main__":
    main()

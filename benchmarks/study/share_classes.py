"""Datalists of several data sets, brought to the classes they share: a `datalist.json` beside each.

    python benchmarks/study/share_classes.py a/all.json b/all.json --classes Cardiomegaly,Effusion
        --same "Effusion=Pleural Effusion"

A data set whose list is short of a class is refused; `--same` names a class as another data set does.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def share(content: Mapping[str, Any], classes: Sequence[str], same: Mapping[str, str]) -> dict[str, Any]:
    """The datalist with these classes, in this order."""
    own = list(content.get("classes", content.get("labels", [])))
    places = []
    for name in classes:
        found = [own.index(each) for each in (name, same.get(name)) if each in own]
        if not found:
            raise ValueError(f"has no class {name!r} but {', '.join(own)}")
        places.append(found[0])
    shared: dict[str, Any] = {"classes": list(classes)}
    for section in ("training", "validation", "test"):
        if section in content:
            shared[section] = [
                {**item, "label": [item["label"][place] for place in places]} for item in content[section]
            ]
    return shared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datalists", type=Path, nargs="+")
    parser.add_argument("--classes", required=True, help="names with commas between them")
    parser.add_argument("--same", nargs="*", default=[], metavar="NAME=OTHER")
    arguments = parser.parse_args()
    same = dict(pair.split("=", 1) for pair in arguments.same)
    for path in arguments.datalists:
        try:
            shared = share(json.loads(path.read_text(encoding="utf-8")), arguments.classes.split(","), same)
        except ValueError as error:
            raise SystemExit(f"{path}: {error}.") from None
        target = path.with_name("datalist.json")
        if target.resolve() == path.resolve():
            raise SystemExit(f"{path} would be written over; give it another name.")
        target.write_text(json.dumps(shared, indent=1) + "\n", encoding="utf-8")
        print(f"{target}: {', '.join(shared['classes'])}")


if __name__ == "__main__":
    main()

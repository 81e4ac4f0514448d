"""What the server knows after every round, on disk so that a new server goes on from the last finished one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from msdino_monai.errors import UserError, one_line
from msdino_monai.federated.plan import Plan
from msdino_monai.vault.atomic import make_folder, read_file, remove_files, write_file

Tensors = dict[str, torch.Tensor]
REPORT_FILE = "federated.json"
TRAFFIC_FILE = "traffic.json"
BEST_FILE = "best.safetensors"


class Ledger:
    """The rounds of one federation in one folder.

    A round is one file: global tensors, what the sites hold of them, and the report so far. It is written whole or not
    at all; the best global tensors and the report for people follow what it says.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan

    def newest(self) -> tuple[int, Tensors, Tensors, dict[str, Any]] | None:
        """The last finished round, its global tensors, what sites hold, and the report."""
        for path in reversed(self._files()):
            try:
                with safetensors.safe_open(path, "pt") as file:
                    meta = json.loads(file.metadata()["round"])
                    content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            except (safetensors.SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
                raise UserError(
                    f"{path} is not whole ({one_line(error)}); remove it to go on from the round before."
                ) from error
            if meta["plan"] != self.plan.digest():
                raise UserError(
                    f"{self.folder} belongs to a federation with other settings; "
                    "use the same ones, or a new --output_dir."
                )
            split = [
                {name.partition("/")[2]: tensor for name, tensor in content.items() if name.startswith(kind)}
                for kind in ("global/", "held/")
            ]
            return int(meta["number"]), split[0], split[1], meta["report"]
        return None

    def write_round(self, number: int, tensors: Tensors, held: Tensors, report: Mapping[str, Any]) -> None:
        make_folder(self.folder / "state")
        meta = {"number": number, "plan": self.plan.digest(), "report": report}
        content = {f"global/{name}": tensor for name, tensor in tensors.items()}
        content.update({f"held/{name}": tensor for name, tensor in held.items()})
        data = safetensors.torch.save(content, {"round": json.dumps(meta)})
        write_file(self.folder / "state" / f"round_{number:05d}.safetensors", data, private=True)
        remove_files(self._files()[:-2])
        if report.get("best"):
            best = self._best(report["best"]["round"])
            remove_files([path for path in best.parent.glob("best_*.safetensors") if path != best])

    def write_best(self, tensors: Tensors, number: int) -> None:
        """Keep a candidate; it is the best once a report says so."""
        make_folder(self.folder / "state")
        write_file(self._best(number), safetensors.torch.save(tensors, {"round": str(number)}))

    def deliver_best(self, number: int) -> None:
        """The best global tensors, where people look for them."""
        write_file(self.folder / BEST_FILE, read_file(self._best(number)))

    def read_best(self) -> Tensors:
        return safetensors.torch.load(read_file(self.folder / BEST_FILE))

    def write_update(self, number: int, name: str, tensors: Tensors) -> None:
        folder = self.folder / "updates" / f"round_{number:05d}"
        make_folder(folder.parent)
        make_folder(folder)
        write_file(folder / f"{name}.safetensors", safetensors.torch.save(dict(tensors)), private=True)

    def write_report(self, report: Mapping[str, Any], name: str = REPORT_FILE) -> None:
        make_folder(self.folder)
        write_file(self.folder / name, (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())

    def read_report(self) -> dict[str, Any]:
        path = self.folder / REPORT_FILE
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def _best(self, number: int) -> Path:
        return self.folder / "state" / f"best_{number:05d}.safetensors"

    def _files(self) -> list[Path]:
        return sorted((self.folder / "state").glob("round_*.safetensors"))

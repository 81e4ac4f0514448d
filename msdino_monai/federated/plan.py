"""What a federation is, in one JSON file that travels with the job to the server and to every site."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msdino_monai.errors import UserError
from msdino_monai.federated.aggregation import STRATEGIES
from msdino_monai.federated.transport import TRANSPORTS
from msdino_monai.numbers import check_shares, check_whole_numbers
from msdino_monai.vault.atomic import read_file

PLAN_FILE = "federation.json"
INITIAL_FILE = "initial.safetensors"
BUNDLE_FOLDER = "bundle"


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything server and sites must know alike; nothing of any one machine.

    Args:
        name: the job's name.
        bundle: the bundle's name.
        sites: who takes part.
        rounds, local_epochs: how long.
        strategy: how the sites' tensors are aggregated.
        transport: how numbers travel.
        trainable: a regular expression on names of parameters; None is all that the bundle trains.
        min_sites: with fewer good answers in a round the federation stops.
        settings: the bundle's settings.
        base: the hash of all that does not travel, and `agreement` what else must be the same at all sites.
        configs: the hash of the bundle's own configs.
        key_metric: chooses the best global model.
        keep_updates: whether the server keeps every site's tensors of every round.
        round_timeout: seconds a round waits for its last site; 0 waits as long as the site is heard of.
        silent_after: seconds without a sign of life after which a site counts as gone.
    """

    name: str
    bundle: str
    sites: tuple[str, ...]
    rounds: int
    local_epochs: int = 1
    strategy: str = "fedavg"
    transport: str = "fp32"
    trainable: str | None = None
    min_sites: int = 1
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    base: str = ""
    configs: str = ""
    agreement: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    key_metric: str = ""
    keep_updates: bool = False
    round_timeout: float = 0.0
    silent_after: float = 60.0

    def __post_init__(self) -> None:
        check_whole_numbers(1, rounds=self.rounds, local_epochs=self.local_epochs, min_sites=self.min_sites)
        check_shares(round_timeout=self.round_timeout, silent_after=self.silent_after)
        if self.silent_after < 1:
            raise UserError(f"--silent_after must be at least 1 second, got {self.silent_after!r}.")
        _check_choice("strategy", self.strategy, STRATEGIES)
        _check_choice("transport", self.transport, TRANSPORTS)
        if self.min_sites > len(self.sites):
            raise UserError(f"--min_sites {self.min_sites} is more than there are sites ({', '.join(self.sites)}).")

    def write(self, folder: Path) -> Path:
        path = folder / PLAN_FILE
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")
        return path

    def digest(self) -> str:
        """The same for plans whose rounds can follow each other; who waits how long for whom does not matter."""
        free = {"name", "min_sites", "keep_updates", "round_timeout", "silent_after"}
        said = {name: value for name, value in dataclasses.asdict(self).items() if name not in free}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def read_plan(folder: Path) -> Plan:
    """The plan that came with a job."""
    content = json.loads(read_file(folder / PLAN_FILE))
    return Plan(**{**content, "sites": tuple(content["sites"])})


def _check_choice(flag: str, value: str, known: Any) -> None:
    if value not in known:
        raise UserError(f"unknown --{flag} {value!r}; it is one of: {', '.join(known)}.")

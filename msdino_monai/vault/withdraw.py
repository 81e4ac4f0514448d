"""The hospital's right to take a patient out of an export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from msdino_monai.vault.ledger import Ledger
from msdino_monai.vault.signing import read_signing_key
from msdino_monai.vault.state import ExportState, StateError, refuse_overlap
from msdino_monai.vault.writer import lock_export


@dataclass(frozen=True)
class Withdrawal:
    """How many images left for good, and how many others of the same shards must be exported again."""

    images: int
    again: int


def withdraw_patient(
    state_dir: str | Path, output_dir: str | Path, patient_id: str, signing_key: str | Path | None = None
) -> Withdrawal:
    """Remove every shard that holds the patient and never export the patient again.

    The hospital cannot read what it sealed, so whole shards go: first from the manifest, then from the disk. The next
    run of the export brings the other images back.
    """
    output_dir = Path(output_dir).expanduser().resolve()
    if not (Path(state_dir).expanduser() / "settings.json").is_file():
        raise StateError(f"{state_dir} is no state_dir of an export; give the one the export was made with.")
    refuse_overlap(Path(state_dir), output_dir)
    state = ExportState(state_dir)
    key = None if signing_key is None else read_signing_key(signing_key)
    if key is None and (state.read_settings() or {}).get("signed"):
        raise StateError(f"the export in {output_dir} is signed; give the signing key too.")
    ledger = Ledger(output_dir, state, key)
    with state.lock_run(), lock_export(output_dir):
        ledger.read()  # the right folder, before anything changes
        state.withdraw(state.salted_id(str(patient_id), "patient"))
        recovery = ledger.recover()
    return Withdrawal(recovery.withdrawn, recovery.again)

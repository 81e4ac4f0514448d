"""`python -m msdino_monai withdraw`: a patient takes back what was exported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from msdino_monai.errors import UserError
from msdino_monai.exporting.keys import signing_key_in
from msdino_monai.flags import split_flags
from msdino_monai.settings import is_command_line
from msdino_monai.vault import ExportDescription, ExportState, withdraw_patient
from msdino_monai.vault.atomic import write_file
from msdino_monai.vault.manifest import MANIFEST_FILE, decode_manifest


def remember_command(state: ExportState, description: ExportDescription) -> None:
    """Note, in the hospital's own folder, how this export is made, so that a withdrawal can complete it again.

    Settings that were left out are noted, too: another version of the bundle may begin with others.
    """
    if is_command_line():
        typed = {name: value for name, value in split_flags(sys.argv[2:]) if name not in ("output_dir", "state_dir")}
        arguments = [sys.argv[1], *(f"--{name}={value}" for name, value in (_settings_of(description) | typed).items())]
        command = {"folder": str(Path.cwd()), "arguments": arguments}
        write_file(state.folder / "command.json", json.dumps(command).encode(), private=True)


def withdraw(state_dir: str, output_dir: str, patient_id: str, signing_key: str = "", export_again: bool = True) -> int:
    """Take a patient out of an export, and never export that patient again.

    The hospital cannot open what it sealed, so every shard that holds the patient is removed, first from the manifest,
    then from the disk; then the export's own command is run once more and brings the other images of those shards back
    (--export_again false leaves that to you). Send the folder to the coordinator again, and ask for the old one to be
    deleted: nobody can take back what has left. --patient_id is DICOM's Patient ID, or the datalist's `patient`.
    --signing_key is the export's own, if left out.
    """
    state, output = Path(state_dir).expanduser().resolve(), Path(output_dir).expanduser().resolve()
    folder, arguments = _command(state) if export_again else ("", [])
    result = withdraw_patient(state, output, patient_id, signing_key or _signing_key(state))
    if result.images == 0:
        raise UserError(
            f"no image of this patient is in {output}; check the id (it is never exported from now on, all the same)."
        )
    print(f"{result.images} images of the patient are withdrawn; {result.again} others must be exported again.")
    if not export_again or result.again == 0:
        return 0
    expected = _images_in(output) + result.again
    here = ["--output_dir", str(output), "--state_dir", str(state)]  # the folders may have moved since
    command = [sys.executable, "-m", "monai.bundle", *arguments, *here]
    status = subprocess.run(command, cwd=folder, check=False).returncode  # noqa: S603 -- as the user typed it
    if status not in (0, 3):
        raise UserError("the patient is withdrawn, but the export did not complete; run its command again.")
    if (missing := expected - _images_in(output)) > 0:
        print(
            f"{missing} of them did not come back: the last command of this export does not name them, or their files "
            "are gone. Run the command that exported them once more."
        )
        return 3
    return 0


def _images_in(output_dir: Path) -> int:
    path = output_dir / MANIFEST_FILE
    return decode_manifest(path.read_bytes(), path).images


def _settings_of(description: ExportDescription) -> dict[str, object]:
    """The settings that decide what the export writes, as far as its description has their values."""
    embedder = {name: description.embedder[name] for name in ("patch_size", "margin", "position_scale")}
    if "seed" in description.embedder:  # else a checkpoint was named, which decides the rest
        embedder |= {"embedder_seed": description.embedder["seed"], "embedding_dim": description.embedding_dim}
    options = {name: value for name, value in description.options.items() if name != "augment"}
    return {**embedder, **options, "num_views": description.num_views, "dtype": description.dtype}


def _signing_key(state_dir: Path) -> Path | None:
    """What signs the export: the key its last command names, else the one that was made for it."""
    if (state_dir / "command.json").is_file():
        folder, (_, *flags) = _command(state_dir)
        if named := dict(split_flags(flags)).get("signing_key"):
            return Path(folder) / Path(named).expanduser()
    own = signing_key_in(state_dir)
    return own if own.is_file() else None


def _command(state_dir: Path) -> tuple[str, list[str]]:
    try:
        stored = json.loads((state_dir / "command.json").read_text(encoding="utf-8"))
    except OSError:
        raise UserError(
            f"{state_dir} does not know the command of its export; give --export_again false, then run it yourself."
        ) from None
    return str(stored["folder"]), list(stored["arguments"])

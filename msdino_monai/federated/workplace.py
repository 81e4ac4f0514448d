"""Where a site's data lies and where its files go, and its bundle made ready to train."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow

from msdino_monai.errors import UserError
from msdino_monai.federated.error import ShareableError
from msdino_monai.federated.site import Site
from msdino_monai.images.quarantine import Quarantine
from msdino_monai.vault.atomic import hash_file

# One machine that plays all sites sets the first two, a hospital the others.
SITES_DIR = "MSDINO_SITES_DIR"
FEDERATION_DIR = "MSDINO_FEDERATION_DIR"
DATASET_DIR = "MSDINO_DATASET_DIR"
OUTPUT_DIR = "MSDINO_OUTPUT_DIR"
SITE_SETTINGS = "MSDINO_SITE_SETTINGS"

CONFIGS = ("train.json", "federated.json")


def data_folder(site: str) -> Path:
    """The folder with this site's images, set at the site and never in a job."""
    if own := os.environ.get(DATASET_DIR):
        folder = Path(own)
    elif shared := os.environ.get(SITES_DIR):
        folder = Path(shared) / site
    else:
        raise ShareableError(f"this site does not say where its data is; set {DATASET_DIR} for its FLARE client.")
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; correct {DATASET_DIR} at the site.")
    return folder.resolve()


def site_folder(site: str, fallback: Path) -> Path:
    """Where a site keeps what it needs from one round to the next."""
    if own := os.environ.get(OUTPUT_DIR):
        return Path(own)
    if shared := os.environ.get(FEDERATION_DIR):
        return Path(shared) / "sites" / site
    return fallback / "msdino_federation"


def server_folder(name: str, fallback: Path) -> Path:
    """Where the server keeps its rounds; the same for every job of this name, so that a new one goes on."""
    own = os.environ.get(FEDERATION_DIR)
    return Path(own) if own else fallback / "msdino_federation" / name


def site_settings() -> dict[str, Any]:
    """Settings of the bundle that only this site knows, such as its device or the size of its batches."""
    path = os.environ.get(SITE_SETTINGS)
    return read_settings(Path(path)) if path else {}


def read_settings(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); correct it.") from error
    if not isinstance(content, dict):
        raise UserError(f'{path} must hold an object of settings, like {{"batch_size": 4}}.')
    return content


def bundle_configs(bundle: Path) -> list[str]:
    """The config files of a bundle's federated training."""
    paths = [bundle / "configs" / name for name in CONFIGS]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UserError(f"{missing[0]} is missing; name a bundle that can be federated.")
    return list(map(str, paths))


def configs_hash(bundle: Path) -> str:
    """The sha256 of the bundle's own configs, whose values no setting shows."""
    return hashlib.sha256("".join(hash_file(Path(path)) for path in bundle_configs(bundle)).encode()).hexdigest()


def known_settings(bundle: Path) -> list[str]:
    """The top-level names a user may set."""
    return [
        name for path in bundle_configs(bundle) for name in ConfigParser.load_config_file(path) if name.isidentifier()
    ]


def build_site(bundle: Path, dataset_dir: Path, output_dir: Path, settings: Mapping[str, Any]) -> Site:
    """The bundle's `federated_site`, after the bundle's own checks; files that were refused get another chance."""
    Quarantine(output_dir).clear()
    given = {**settings, "dataset_dir": str(dataset_dir), "output_dir": str(output_dir)}
    datalist = dataset_dir / "datalist.json"
    if "datalist" not in given and "datalist" in known_settings(bundle) and datalist.is_file():
        given["datalist"] = str(datalist)
    logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)  # it warns that logging is left to FLARE
    flow = ConfigWorkflow(
        config_file=bundle_configs(bundle),
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="train",
        bundle_root=str(bundle),
        **given,
    )
    flow.initialize()
    site = flow.parser.get_parsed_content("federated_site")
    if not isinstance(site, Site):
        raise UserError(f"federated_site of {bundle.name} is a {type(site).__name__}; it must be a Site.")
    return site


def plays_all_sites() -> bool:
    """Whether this machine is a simulation; otherwise a hospital's secrets are at stake."""
    return bool(os.environ.get(SITES_DIR)) and not os.environ.get(DATASET_DIR)


def keep_errors_here() -> None:
    """Leave a site's `error_log.txt` empty, because FLARE sends it to the server; `log.txt` has the same lines."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).name == "error_log.txt":
            handler.addFilter(lambda _: False)


def said_to_others(error: BaseException) -> str:
    """What a site tells the server. Any line may hold a patient's name, so a hospital sends those written to travel.

    One machine that plays all sites keeps nothing from itself.
    """
    cause = _cause(error)
    if plays_all_sites() or isinstance(cause, ShareableError):
        return said(error)
    return f"{type(cause).__name__} at this site; the whole line is in its own log"


def said(error: BaseException) -> str:
    """What went wrong in one line."""
    cause = _cause(error)
    line = " ".join(str(cause).split())
    return line if isinstance(cause, UserError) else f"{type(cause).__name__}: {line[:300]}"


def _cause(error: BaseException) -> BaseException:
    """The sentence meant for the user, or else the first cause, however deep MONAI hid it."""
    cause: BaseException | None = error
    while cause is not None:
        error = cause
        if isinstance(error, UserError):
            break
        cause = error.__cause__ or error.__context__
    return error

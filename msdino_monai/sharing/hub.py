"""The Hugging Face Hub: MONAI's own push, and one line where it cannot work."""

from __future__ import annotations

import importlib
import re
from importlib.util import find_spec

from msdino_monai.errors import UserError, one_line
from msdino_monai.sharing.bundle import Bundle


def check_hub(repository: str) -> None:
    """Refuse what the Hub would refuse, before a package is made in vain."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UserError(f"--push_to_hf must be owner/repository, got {repository!r}.")
    if find_spec("huggingface_hub") is None:
        raise UserError("--push_to_hf needs huggingface_hub: pip install huggingface_hub")
    if importlib.import_module("huggingface_hub").get_token() is None:
        raise UserError("--push_to_hf needs your login: run `hf auth login`, or set HF_TOKEN.")


def push(work: Bundle, repository: str) -> str:
    """Upload the folder of a package, tagged with its version; returns its address."""
    from monai.bundle import push_to_hf_hub

    try:
        address = push_to_hf_hub(
            repo=repository, name=work.name, bundle_dir=str(work.root.parent), version=work.version
        )
    except Exception as error:  # of the network, the Hub, or the library
        raise UserError(f"{repository} was not pushed ({one_line(error)}); the package is made, push again.") from error
    return str(address)

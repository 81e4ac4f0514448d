"""A small export, its keys, and the hospital that writes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vault_hospital import Hospital, Keys, views_of

from msdino_monai.vault import TokenStore
from msdino_monai.vault.keygen import keygen


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("keys")
    keygen(str(folder), "coordinator")
    keygen(str(folder), "site", "hospital_a")
    public = (folder / "hospital_a_signing_key.pub").read_text()
    (folder / "trusted_sites").write_text(f"# who may send\nhospital_a {public}")
    return Keys(folder)


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    """Exports in the open, unsigned."""
    return Hospital(tmp_path / "export", tmp_path / "state")


@pytest.fixture
def sealing_hospital(tmp_path: Path, keys: Keys) -> Hospital:
    """Seals for the coordinator and signs."""
    writing = {"recipients": keys.recipient, "signing_key": keys.signing_key}
    return Hospital(tmp_path / "sealed", tmp_path / "sealed_state", writing=writing)


@pytest.fixture
def open_plain() -> Callable[..., TokenStore]:
    return lambda folder, **settings: TokenStore(folder, allow_unsigned=True, **settings)


@pytest.fixture
def open_sealed(tmp_path: Path, keys: Keys) -> Callable[..., TokenStore]:
    def open_(folder: Path, **changes: Any) -> TokenStore:
        settings = {
            "identity": keys.identity,
            "trusted_sites": keys.trusted_sites,
            "cache_dir": tmp_path / "cache",
        }
        return TokenStore(folder, **{**settings, **changes})

    return open_


@pytest.fixture
def assert_complete() -> Callable[[TokenStore, Hospital, Sequence[int]], None]:
    """The store holds exactly these images, each with its own tokens."""

    def check(store: TokenStore, hospital: Hospital, images: Sequence[int]) -> None:
        places = {image.tobytes(): place for place, image in enumerate(store.image_ids)}
        assert places.keys() == {hospital.image_id(index) for index in images}
        assert len(store) == len(images)
        for index in images:
            place = places[hospital.image_id(index)]
            np.testing.assert_array_equal(store.gather([place, place], [0, 1]), views_of(index))

    return check

from __future__ import annotations

from pathlib import Path

import pytest
from small_bundle_parts import BUNDLES

from msdino_monai.sharing.bundle import Bundle
from msdino_monai.sharing.page import bring_pages, dead_links

ALL = sorted(path.name for path in BUNDLES.iterdir() if path.is_dir())


@pytest.mark.parametrize("name", ALL)
def test_packed_bundle_has_no_dead_link(name: str, tmp_path: Path) -> None:
    source = Bundle(BUNDLES / name)
    work = source.copy(tmp_path)
    assert list(dead_links(work.root))  # alone, its README points into the repository
    bring_pages(source, work)
    assert list(dead_links(work.root)) == []
    brought = {path.name for path in (work.root / "docs").iterdir()} - {"README.md"}
    assert brought <= {path.name for path in (BUNDLES.parent / "docs").glob("*.md")}
    assert brought


def test_pages_of_pages_come_too_and_the_rest_is_named(tmp_path: Path) -> None:
    root = tmp_path / "repository" / "bundles" / "b"
    for folder in (root / "configs", root / "docs", tmp_path / "repository" / "docs"):
        folder.mkdir(parents=True)
    (root / "configs" / "metadata.json").write_text("{}")
    (tmp_path / "secret.md").write_text("secret")
    docs = tmp_path / "repository" / "docs"
    (root / "docs" / "README.md").write_text(
        "[first](../../../docs/first.md#part) [me](#me) [web](https://x.org/a.md) [meta](../configs/metadata.json) "
        "[gone](../../../docs/gone.md) [out](../../../../secret.md) ![a lung](../../../docs/lung.png)"
    )
    (docs / "first.md").write_text("[second](second.md) [back](../bundles/b/docs/README.md#me) [code](../examples)")
    (docs / "second.md").write_text("[first](first.md)")
    work = Bundle(root).copy(tmp_path / "copy")
    bring_pages(Bundle(root), work)
    text = {path.name: path.read_text() for path in (work.root / "docs").iterdir()}
    assert text == {
        "README.md": "[first](first.md#part) [me](#me) [web](https://x.org/a.md) [meta](../configs/metadata.json) "
        "gone (`docs/gone.md` in the repository) out (`secret.md` in the repository) "
        "a lung (`docs/lung.png` in the repository)",
        "first.md": "[second](second.md) [back](README.md#me) code (`examples` in the repository)",
        "second.md": "[first](first.md)",
    }
    assert list(dead_links(work.root)) == []


def test_page_of_the_bundles_own_name_is_not_overwritten(tmp_path: Path) -> None:
    root = tmp_path / "bundles" / "b"
    for folder in (root / "configs", root / "docs", tmp_path / "docs"):
        folder.mkdir(parents=True)
    (root / "configs" / "metadata.json").write_text("{}")
    (tmp_path / "docs" / "README.md").write_text("the repository's")
    (root / "docs" / "README.md").write_text("[all](../../../docs/README.md)")
    work = Bundle(root).copy(tmp_path / "copy")
    bring_pages(Bundle(root), work)
    assert (work.root / "docs" / "README.md").read_text() == "all (`docs/README.md` in the repository)"

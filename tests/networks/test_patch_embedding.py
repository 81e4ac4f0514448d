from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from msdino_monai.errors import UserError
from msdino_monai.networks.patch_embedding import PatchEmbedding, orthonormal_map, position_codes


@pytest.mark.parametrize(("rows", "columns"), [(64, 256), (256, 256), (300, 144)])
def test_map_is_orthonormal(rows: int, columns: int) -> None:
    kernel = orthonormal_map(rows, columns, seed=1).astype(np.float64)
    gram = kernel @ kernel.T if rows <= columns else kernel.T @ kernel
    np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-3)


def test_full_embedding_inverts_exactly() -> None:
    embedding = PatchEmbedding(32, 8, embedding_dim=64)
    image = torch.rand(1, 1, 32, 32)
    patches = (embedding(image) @ embedding.weight.flatten(1) + 1) / 2  # (1, N, D) -> (1, N, 64)
    expected = image.reshape(4, 8, 4, 8).permute(0, 2, 1, 3).reshape(1, 16, 64)
    torch.testing.assert_close(patches, expected, atol=1e-3, rtol=0)


def test_margin_of_a_patch_changes_nothing() -> None:
    embedding = PatchEmbedding(32, 16, embedding_dim=40, margin=3)
    image = torch.rand(1, 1, 32, 32)
    disturbed = image.clone()
    disturbed[..., [0, 1, 2, 13, 14, 15, 16, 17, 18, 29, 30, 31], :] = 9.0
    disturbed[..., [0, 1, 2, 13, 14, 15, 16, 17, 18, 29, 30, 31]] = 9.0
    torch.testing.assert_close(embedding(disturbed), embedding(image))
    disturbed[0, 0, 8, 8] += 1
    assert not torch.equal(embedding(disturbed), embedding(image))


def test_tokens_are_patches_row_by_row() -> None:
    embedding = PatchEmbedding(48, 16, embedding_dim=8)
    image = torch.zeros(1, 1, 48, 48) + 0.5
    image[..., 16:32, 32:48] = 1.0
    lit = embedding(image)[0].abs().sum(dim=1) > 1e-3
    assert torch.nonzero(lit).flatten().tolist() == [5]


def test_hash_names_what_tokens_mean() -> None:
    same = PatchEmbedding(64, 16, 32, margin=1, seed=3).describe()
    assert same == PatchEmbedding(64, 16, 32, margin=1, seed=3).describe()
    others = [
        PatchEmbedding(64, 16, 32, margin=1, seed=4),
        PatchEmbedding(64, 16, 32, margin=2, seed=3),
        PatchEmbedding(64, 16, 33, margin=1, seed=3),
        PatchEmbedding(80, 16, 32, margin=1, seed=3),
        PatchEmbedding(64, 16, 32, margin=1, seed=3, position_scale=0.5),
    ]
    assert len({same["sha256"], *(other.describe()["sha256"] for other in others)}) == 6


def test_default_embedder_is_the_same_on_every_machine() -> None:
    """All hospitals must draw these weights; a change here breaks every export made before."""
    assert PatchEmbedding(margin=2).describe()["sha256"] == (
        "065599cdeeb095acfeed25b7b5e8c3fd2d62072caa6443dc2ad681e83b448fd9"
    )


def test_position_codes_are_distinct_and_of_unit_variance() -> None:
    codes = position_codes(14, 128)
    assert codes.std() == pytest.approx(1, abs=0.35)
    distances = np.linalg.norm(codes[:, None] - codes[None], axis=-1)
    assert distances[~np.eye(196, dtype=bool)].min() > 0.5


def test_position_codes_are_added_to_the_tokens() -> None:
    image = torch.rand(2, 1, 64, 64)
    plain, coded = PatchEmbedding(64, 16, 32), PatchEmbedding(64, 16, 32, position_scale=0.5)
    difference = coded(image) - plain(image)
    expected = torch.from_numpy(0.5 * position_codes(4, 32)).expand_as(difference)
    torch.testing.assert_close(difference, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("key", ["patch_embed.proj.weight", "module.backbone.patch_embed.proj.weight"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_projection_is_taken_from_a_vit_checkpoint(tmp_path: Path, key: str, suffix: str) -> None:
    kernel = torch.randn(24, 3, 8, 8)
    path = tmp_path / f"vit{suffix}"
    if suffix == ".pth":
        torch.save({"teacher": {key: kernel, "other": torch.zeros(1)}}, path)
    else:
        save_file({key: kernel}, path)
    embedding = PatchEmbedding(16, 8, 24, checkpoint=path)
    image = torch.rand(1, 1, 16, 16)
    expected = torch.nn.functional.conv2d(2 * image.repeat(1, 3, 1, 1) - 1, kernel, stride=8).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embedding(image), expected, atol=1e-4, rtol=1e-4)


def test_checkpoint_that_does_not_fit_says_what_to_set(tmp_path: Path) -> None:
    torch.save({"patch_embed.proj.weight": torch.zeros(24, 3, 8, 8)}, tmp_path / "vit.pth")
    torch.save({"head.weight": torch.zeros(2)}, tmp_path / "head.pth")
    with pytest.raises(UserError, match="patches of 8 pixels in 24 dimensions"):
        PatchEmbedding(32, 16, 24, checkpoint=tmp_path / "vit.pth")
    with pytest.raises(UserError, match="no patch projection"):
        PatchEmbedding(32, 16, 24, checkpoint=tmp_path / "head.pth")
    with pytest.raises(UserError, match="is not a file"):
        PatchEmbedding(32, 16, 24, checkpoint=tmp_path / "absent.pth")


def test_checkpoint_that_is_code_is_refused(tmp_path: Path) -> None:
    torch.save({"patch_embed.proj.weight": Path("x")}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="weights"):
        PatchEmbedding(32, 16, 24, checkpoint=tmp_path / "evil.pth")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"img_size": 100}, "multiple of patch_size"),
        ({"margin": 8}, "margin must leave pixels"),
        ({"margin": -1}, "margin must leave pixels"),
        ({"embedding_dim": 0}, "at least 1, got 0"),
        ({"position_scale": -1.0}, "not be negative, got -1"),
    ],
)
def test_bad_arguments_are_refused_with_their_value(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PatchEmbedding(**arguments)

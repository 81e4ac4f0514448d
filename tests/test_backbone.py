from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from msdino_monai.backbone import Backbone, BackboneError, load_backbone, read_backbone, save_backbone
from msdino_monai.errors import UserError
from msdino_monai.networks import ImageEncoder, PatchEmbedding, ViTBody
from msdino_monai.networks.difference import body_sizes
from msdino_monai.networks.public_vit import HALF, resize_positions
from msdino_monai.vault import atomic
from msdino_monai.vault.keygen import keygen
from msdino_monai.vault.manifest import canonical

IMAGE = {"img_size": 32, "patch_size": 8, "embedding_dim": 20}
BODY = {"embedding_dim": 20, "hidden_size": 24, "mlp_dim": 40, "num_layers": 2, "num_heads": 3}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def encoder(seed: int = 1, image: dict[str, Any] | None = None, **body: Any) -> ImageEncoder:
    torch.manual_seed(seed)
    return ImageEncoder(PatchEmbedding(**{**IMAGE, **(image or {})}), ViTBody(**{**BODY, **body})).eval()


def description(of: ImageEncoder) -> dict[str, Any]:
    return {
        "body": body_sizes(of.body),
        "embedder": of.embedding.describe(),
        "sites": [{"site_id": "hospital_a", "images": 12}],
        "settings": {"learning_rate": 5e-4, "sampling": (0.75, 0.4)},
        "trained": {"epochs": 2, "iterations": 6, "images": 24},
    }


def save(of: ImageEncoder, folder: Path, key: Path | None = None, *, with_embedder: bool = True, **more: Any) -> Path:
    state = {name: tensor for name, tensor in of.state_dict().items() if with_embedder or name.startswith("body.")}
    return save_backbone(folder, state, description(of), signing_key=key, **more)


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    keygen(str(folder), "coordinator")
    keygen(str(folder), "coordinator", "stranger")
    return folder


@pytest.fixture
def signed(tmp_path: Path, keys: Path) -> Path:
    """A folder with a signed backbone of `encoder(seed=1)`."""
    return save(encoder(), tmp_path / "backbone", keys / "coordinator_signing_key.txt").parent


def rewrite(folder: Path, **changes: Any) -> None:
    """Change the description and its checksum, as somebody without the key can."""
    path = folder / "model.json"
    content = {**json.loads(path.read_bytes()), **changes}
    del content["sha256"]
    content["sha256"] = hashlib.sha256(canonical(content)).hexdigest()
    path.write_text(json.dumps(content, indent=1) + "\n")


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("file", ["model.pt", "model.safetensors", ""])
def test_a_signed_backbone_comes_back_as_it_was(signed: Path, keys: Path, file: str) -> None:
    trained, other = encoder(seed=1), encoder(seed=2)
    image = torch.rand(2, 1, 32, 32)
    assert not torch.allclose(other(image), trained(image))
    found = load_backbone(other, signed / file, coordinator_key=keys / "coordinator_signing_key.pub")
    assert torch.equal(other(image), trained(image))
    assert found.description is not None
    assert found.description["trained"] == {"epochs": 2, "iterations": 6, "images": 24}
    assert found.description["body"] == BODY | {"num_registers": 0}
    assert found.path == signed / (file or "model.pt")


def test_files_hold_plain_tensors_anybody_can_load(signed: Path) -> None:
    expected = encoder().state_dict()
    for state in (
        torch.load(signed / "model.pt", weights_only=True),
        safetensors.torch.load_file(signed / "model.safetensors"),
    ):
        assert type(state) is dict
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def test_the_same_backbone_gives_the_same_bytes(tmp_path: Path, keys: Path) -> None:
    for folder in ("a", "b"):
        save(encoder(), tmp_path / folder, keys / "coordinator_signing_key.txt")
    for file in ("model.pt", "model.safetensors", "model.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_tensors_are_saved_in_full_precision_and_apart(tmp_path: Path) -> None:
    network = encoder()
    network.body.double()
    state = network.state_dict()
    shared = torch.ones(1, 1, 100)
    state["body.cls_token"], state["body.norm.bias"] = shared[..., :24], shared[0, 0, :24]
    save_backbone(tmp_path, state, description(network))
    loaded = torch.load(tmp_path / "model.pt", weights_only=True)
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float32}
    assert all(tensor.untyped_storage().nbytes() == tensor.numel() * 4 for tensor in loaded.values())
    loaded["body.cls_token"].zero_()
    assert loaded["body.norm.bias"].all()


def test_the_description_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    write = atomic.write_file

    def note(path: Path, data: bytes) -> None:
        written.append(path.name)
        write(path, data)

    monkeypatch.setattr("msdino_monai.backbone.write_file", note)
    assert save(encoder(), tmp_path, name="body") == tmp_path / "body.pt"
    assert written == ["body.pt", "body.safetensors", "body.json"]


def test_a_half_replaced_backbone_is_noticed(signed: Path, tmp_path: Path) -> None:
    """What a crash between two files leaves behind."""
    save(encoder(seed=5), tmp_path / "newer")
    shutil.copy(tmp_path / "newer" / "model.pt", signed)
    with pytest.raises(BackboneError, match=r"model\.pt is not the file model\.json describes"):
        read_backbone(signed)
    assert read_backbone(signed / "model.safetensors").description is not None


@pytest.mark.parametrize("file", ["model.pt", "model.safetensors"])
@pytest.mark.parametrize("place", [0, 700, -1])
def test_a_flipped_byte_of_the_tensors_is_noticed(signed: Path, file: str, place: int) -> None:
    flip(signed / file, place)
    with pytest.raises(BackboneError, match=r"not the file model\.json describes .* copy both again"):
        read_backbone(signed / file)


def test_every_flipped_byte_of_the_description_is_noticed(signed: Path) -> None:
    path = signed / "model.json"
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        flip(path, place)
        with pytest.raises(BackboneError, match=r"model\.json was altered"):
            read_backbone(signed)
        path.write_bytes(whole)
    read_backbone(signed)


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{}", b"[" * 5000, b"\xff", b'{"format": "another"}'])
def test_what_is_no_description_is_refused(signed: Path, data: bytes) -> None:
    (signed / "model.json").write_bytes(data)
    with pytest.raises(BackboneError, match="describes no backbone; ask the coordinator"):
        read_backbone(signed)


@pytest.mark.parametrize("file", ["model.pt", "model.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_a_cut_file_is_refused_with_and_without_description(signed: Path, file: str, share: float) -> None:
    path = signed / file
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(BackboneError, match="is not the file"):
        read_backbone(path)
    (signed / "model.json").unlink()
    with pytest.raises(UserError, match="does not load as plain tensors; copy it again"):
        read_backbone(path)


def test_swapped_files_are_refused(signed: Path) -> None:
    (signed / "model.pt").rename(signed / "third")
    (signed / "model.safetensors").rename(signed / "model.pt")
    (signed / "third").rename(signed / "model.safetensors")
    for file in ("model.pt", "model.safetensors"):
        with pytest.raises(BackboneError, match="is not the file"):
            read_backbone(signed / file)


def test_a_renamed_file_is_not_mistaken_for_a_described_one(signed: Path) -> None:
    for suffix in (".pt", ".json"):
        (signed / f"model{suffix}").rename(signed / f"mine{suffix}")
    with pytest.raises(BackboneError, match=r"speaks of model\.pt, model\.safetensors, not of mine\.pt"):
        read_backbone(signed / "mine.pt")


def test_a_description_of_other_tensors_is_refused(signed: Path) -> None:
    rewrite(signed, tensors_sha256="0" * 64)
    with pytest.raises(BackboneError, match=r"tensors in .*model\.pt are not those model\.json describes"):
        read_backbone(signed)


def test_only_the_coordinators_signature_is_accepted(signed: Path, keys: Path, tmp_path: Path) -> None:
    coordinator, stranger = (keys / f"{name}_signing_key.pub" for name in ("coordinator", "stranger"))
    assert read_backbone(signed, coordinator_key=coordinator.read_text().strip()).description is not None
    with pytest.raises(BackboneError, match="not signed with the coordinator's key"):
        read_backbone(signed, coordinator_key=stranger)
    rewrite(signed, settings={"learning_rate": 1})
    assert read_backbone(signed).description is not None  # nobody asked who wrote it
    with pytest.raises(BackboneError, match="not signed with the coordinator's key"):
        read_backbone(signed, coordinator_key=coordinator)
    with pytest.raises(BackboneError, match="not signed"):
        read_backbone(save(encoder(), tmp_path / "unsigned"), coordinator_key=coordinator)


def test_a_key_demands_a_description(signed: Path, keys: Path) -> None:
    (signed / "model.json").unlink()
    assert read_backbone(signed).description is None
    with pytest.raises(BackboneError, match=r"model\.json is missing, so nothing says who made model\.pt"):
        read_backbone(signed, coordinator_key=keys / "coordinator_signing_key.pub")


@pytest.mark.parametrize("change", [{"body": []}, {"files": None}, {"tensors_sha256": 1}, {"embedder": "x"}])
def test_a_description_of_another_form_is_refused(signed: Path, change: dict[str, Any]) -> None:
    rewrite(signed, **change)
    with pytest.raises(BackboneError, match="describes no backbone"):
        read_backbone(signed)


def test_settings_need_not_be_json_by_birth(tmp_path: Path) -> None:
    said = description(encoder()) | {"settings": {"sampling": (0.75, 0.4), "drop": {2: "b", 10: "a"}}}
    found = read_backbone(save_backbone(tmp_path, encoder().state_dict(), said)).description
    assert found is not None
    assert found["settings"] == {"sampling": [0.75, 0.4], "drop": {"2": "b", "10": "a"}}


def test_a_newer_format_asks_for_an_update(signed: Path) -> None:
    rewrite(signed, format_version=2)
    with pytest.raises(BackboneError, match=r"format version 2 is not known here .* update msdino_monai"):
        read_backbone(signed)


class Touch:
    """What pickle would run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"body.cls_token": Touch(tmp_path / "ran")}, tmp_path / "model.pt")
    with pytest.raises(UserError, match="does not load as plain tensors"):
        read_backbone(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_absent_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"holds neither model\.pt nor model\.safetensors"):
        read_backbone(tmp_path)
    with pytest.raises(UserError, match=r"absent\.pt is missing"):
        read_backbone(tmp_path / "absent.pt")


def test_a_backbone_is_not_altered_by_accident(signed: Path) -> None:
    found = read_backbone(signed)
    with pytest.raises(FrozenInstanceError):
        found.path = signed  # type: ignore[misc]


def test_what_is_saved_must_be_what_is_described(tmp_path: Path) -> None:
    network = encoder()
    state, said = network.state_dict(), description(network)
    with pytest.raises(ValueError, match="description must hold body, embedder"):
        save_backbone(tmp_path, state, {**said, "date": "today"})
    with pytest.raises(ValueError, match="'num_layers': 3"):
        save_backbone(tmp_path, state, {**said, "body": {**said["body"], "num_layers": 3}})
    with pytest.raises(ValueError, match="'num_heads': None"):
        save_backbone(tmp_path, state, {**said, "body": {**said["body"], "num_heads": None}})
    with pytest.raises(ValueError, match="what PatchEmbedding"):
        save_backbone(tmp_path, state, {**said, "embedder": {"seed": 0}})
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_backbone(tmp_path, state, {**said, "settings": {"learning_rate": float("nan")}})
    with pytest.raises(ValueError, match=r"ImageEncoder, got 'student\.body\.norm\.bias'"):
        save_backbone(tmp_path, {**state, "student.body.norm.bias": torch.zeros(1)}, said)
    with pytest.raises(BackboneError, match=r"body\.norm\.bias is not finite: the training diverged"):
        save_backbone(tmp_path, {**state, "body.norm.bias": torch.full((24,), torch.nan)}, said)
    assert not list(tmp_path.iterdir())


def test_position_codes_stay_zero_where_the_file_has_none(signed: Path) -> None:
    positioned = encoder(seed=2, num_positions=16)
    load_backbone(positioned, signed)
    assert positioned.body.positions is not None
    assert not positioned.body.positions.any()
    image = torch.rand(1, 1, 32, 32)
    torch.testing.assert_close(positioned(image), encoder(seed=1)(image))


def test_position_codes_are_resized_to_the_encoders_grid(tmp_path: Path) -> None:
    trained = encoder(num_positions=16)
    assert trained.body.positions is not None
    trained.body.positions.data.normal_()
    path = save(trained, tmp_path)
    larger = encoder(image={"img_size": 48}, num_positions=36)
    load_backbone(larger, path)
    assert larger.body.positions is not None
    assert torch.equal(larger.body.positions, resize_positions(trained.body.positions.detach(), 6))
    with pytest.raises(BackboneError, match=r"num_positions: 16 in model\.pt, 0 here"):
        load_backbone(encoder(), path)
    with pytest.raises(BackboneError, match=r"body\.positions: \(1, 16, 24\) in model\.pt, \(1, 12, 24\) here"):
        load_backbone(encoder(num_positions=12), path)


@pytest.mark.parametrize("name", ["body.positions", "body.registers", "body.to_hidden.weight"])
def test_tensors_of_a_strange_form_are_listed(tmp_path: Path, name: str) -> None:
    network = encoder(num_positions=16, num_registers=2)
    torch.save({**network.state_dict(), name: torch.zeros(7)}, tmp_path / "model.pt")
    with pytest.raises(BackboneError, match=rf"{name}: \(7,\) in model\.pt"):
        load_backbone(network, tmp_path)


def test_a_backbone_serves_images_of_another_size(signed: Path) -> None:
    larger = encoder(seed=2, image={"img_size": 64})
    load_backbone(larger, signed)
    assert torch.equal(larger.body.norm.weight, encoder(seed=1).body.norm.weight)
    assert torch.equal(larger.body.cls_token, encoder(seed=1).body.cls_token)


def test_other_sizes_are_said_in_words_and_nothing_is_loaded(signed: Path) -> None:
    other = encoder(seed=2, hidden_size=48, num_layers=3, num_registers=2)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(BackboneError) as refused:
        load_backbone(other, signed)
    lines = str(refused.value).splitlines()
    assert lines[0].endswith("does not fit this network; give it the file's sizes:")
    assert [line.strip() for line in lines[1:4]] == [
        "hidden_size: 24 in model.pt, 48 here",
        "num_layers: 2 in model.pt, 3 here",
        "num_registers: 0 in model.pt, 2 here",
    ]
    assert len(lines) == 4 + 8 + 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


def test_another_number_of_heads_is_seen_though_all_shapes_agree(signed: Path) -> None:
    with pytest.raises(BackboneError, match=r"num_heads: 3 in model\.pt, 4 here"):
        load_backbone(encoder(num_heads=4), signed)


@pytest.mark.parametrize("with_embedder", [True, False])
@pytest.mark.parametrize(
    ("image", "line"),
    [
        ({"seed": 7}, "seed: 0 in model.pt, 7 here"),
        ({"margin": 1}, "margin: 0 in model.pt, 1 here"),
        ({"position_scale": 0.5}, "position_scale: 0.0 in model.pt, 0.5 here"),
        ({"patch_size": 16}, "patch_size: 8 in model.pt, 16 here"),
        ({"patch_size": 16, "img_size": 64, "seed": 3}, "seed: 0 in model.pt, 3 here"),
    ],
)
def test_another_embedder_is_refused_with_both_hashes(
    tmp_path: Path, image: dict[str, Any], line: str, with_embedder: bool
) -> None:
    trained, other = encoder(), encoder(seed=2, image=image)
    path = save(trained, tmp_path, with_embedder=with_embedder)
    before = other.body.norm.weight.clone(), other.body.cls_token.clone()
    with pytest.raises(BackboneError, match="trained with another patch embedding") as refused:
        load_backbone(other, path)
    assert line in str(refused.value)
    assert str(trained.embedding.describe()["sha256"]) in str(refused.value)
    if other.embedding.num_tokens == trained.embedding.num_tokens:
        assert str(other.embedding.describe()["sha256"]) in str(refused.value)
    assert torch.equal(other.body.cls_token, before[1])


def test_other_weights_under_the_same_description_are_refused(tmp_path: Path) -> None:
    path = save(encoder(), tmp_path, with_embedder=False)
    other = encoder()
    other.embedding.weight[0, 0, 0, 0] += 1
    with pytest.raises(BackboneError, match="sha256: "):
        load_backbone(other, path)


def test_other_weights_are_refused_without_a_description(tmp_path: Path) -> None:
    torch.save(encoder().state_dict(), tmp_path / "model.pt")
    load_backbone(encoder(seed=2), tmp_path)
    with pytest.raises(BackboneError, match=r"embedding\.weight: other numbers in model\.pt than here"):
        load_backbone(encoder(image={"seed": 7}), tmp_path)


def test_the_files_embedder_is_taken_when_it_need_not_match(tmp_path: Path) -> None:
    trained = encoder(image={"seed": 7, "margin": 1})
    save(trained, tmp_path / "with")
    save(trained, tmp_path / "without", with_embedder=False)
    image = torch.rand(1, 1, 32, 32)
    taking, keeping = encoder(seed=2), encoder(seed=2)
    load_backbone(taking, tmp_path / "with", embedder_must_match=False)
    assert torch.equal(taking(image), trained(image))
    assert taking.embedding.describe() == trained.embedding.describe()
    load_backbone(keeping, tmp_path / "without", embedder_must_match=False)
    assert torch.equal(keeping.body.cls_token, trained.body.cls_token)
    assert keeping.embedding.describe() == encoder().embedding.describe()
    with pytest.raises(BackboneError, match=r"position_scale: 0\.0 in model\.pt, 0\.5 here"):
        load_backbone(encoder(image={"position_scale": 0.5}), tmp_path / "with", embedder_must_match=False)


def public_state() -> dict[str, torch.Tensor]:
    """A published ViT in timm's names: width 64, one head, 8-pixel patches of 32-pixel pictures."""
    torch.manual_seed(3)
    shapes = {
        "cls_token": (1, 1, 64),
        "pos_embed": (1, 17, 64),
        "patch_embed.proj.weight": (64, 3, 8, 8),
        "patch_embed.proj.bias": (64,),
        "norm.weight": (64,),
        "norm.bias": (64,),
        "head.weight": (10, 64),
    }
    for name, shape in {
        "norm1": (64,),
        "attn.qkv": (192, 64),
        "attn.proj": (64, 64),
        "norm2": (64,),
        "mlp.fc1": (128, 64),
        "mlp.fc2": (64, 128),
    }.items():
        shapes |= {f"blocks.0.{name}.weight": shape, f"blocks.0.{name}.bias": shape[:1]}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


PUBLIC_IMAGE = {"embedding_dim": 64}
PUBLIC_BODY = {"embedding_dim": 64, "hidden_size": 64, "mlp_dim": 128, "num_layers": 1, "num_heads": 1}


@pytest.mark.parametrize("file", ["dino.pth", "dino.safetensors"])
def test_a_public_checkpoint_loads_with_its_patch_embedding(tmp_path: Path, file: str) -> None:
    if file.endswith(".pth"):
        torch.save({"teacher": {f"backbone.{name}": t for name, t in public_state().items()}}, tmp_path / file)
    else:
        safetensors.torch.save_file(public_state(), tmp_path / file)
    network = encoder(image=PUBLIC_IMAGE, **PUBLIC_BODY, num_positions=16)
    before = network.embedding.describe()
    found = load_backbone(network, tmp_path / file)
    assert found.description is None
    assert all(torch.equal(tensor, found.state[name]) for name, tensor in network.state_dict().items())
    after = network.embedding.describe()
    assert after["checkpoint"] == "ViT"
    assert after["sha256"] != before["sha256"]
    half = load_backbone(network, tmp_path / file, normalisation=HALF)
    assert not torch.equal(half.state["embedding.weight"], found.state["embedding.weight"])
    # What was made of it travels like any other backbone, to an encoder that was drawn from a seed.
    path = save(network, tmp_path / "ours")
    other = encoder(seed=2, image=PUBLIC_IMAGE, **PUBLIC_BODY, num_positions=16)
    load_backbone(other, path, embedder_must_match=False)
    assert other.embedding.describe() == network.embedding.describe()
    image = torch.rand(1, 1, 32, 32)
    assert torch.equal(other(image), network(image))


@pytest.mark.parametrize(
    ("image", "body", "line"),
    [
        ({}, {"num_positions": 0}, "num_positions: 16 in dino.pt, 0 here"),
        ({}, {"num_heads": 2}, "num_heads: 1 in dino.pt, 2 here"),
        ({"margin": 1}, {}, "margin: 0 in dino.pt, 1 here"),
        ({"position_scale": 1.0}, {}, "position_scale: 0 in dino.pt, 1.0 here"),
        ({"embedding_dim": 32}, {"embedding_dim": 32}, "embedding_dim: 64 in dino.pt, 32 here"),
        ({"patch_size": 16}, {"num_positions": 4}, "patch_size: 8 in dino.pt, 16 here"),
    ],
)
def test_a_public_checkpoint_names_the_settings_it_needs(
    tmp_path: Path, image: dict[str, Any], body: dict[str, Any], line: str
) -> None:
    torch.save(public_state(), tmp_path / "dino.pt")
    network = encoder(image={**PUBLIC_IMAGE, **image}, **{**PUBLIC_BODY, "num_positions": 16, **body})
    with pytest.raises(BackboneError, match="published ViT of other sizes; choose its settings") as refused:
        load_backbone(network, tmp_path / "dino.pt")
    assert [text.strip() for text in str(refused.value).splitlines()[1:]] == [line]


def test_a_public_checkpoint_cannot_stand_in_for_the_coordinators(tmp_path: Path, keys: Path) -> None:
    torch.save(public_state(), tmp_path / "dino.pt")
    network = encoder(image=PUBLIC_IMAGE, **PUBLIC_BODY, num_positions=16)
    with pytest.raises(BackboneError, match="nothing says who made"):
        load_backbone(network, tmp_path / "dino.pt", coordinator_key=keys / "coordinator_signing_key.pub")


def test_a_checkpoint_of_another_kind_is_named(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(8, 3, 7, 7)}, tmp_path / "resnet.pt")
    with pytest.raises(BackboneError, match=r"resnet\.pt: the checkpoint is no vision transformer known here"):
        load_backbone(encoder(), tmp_path / "resnet.pt")


def test_links_to_the_files_are_followed(signed: Path, tmp_path: Path) -> None:
    """Model caches link names to contents."""
    links = tmp_path / "links"
    links.mkdir()
    for file in ("model.pt", "model.json"):
        (links / file).symlink_to(signed / file)
    found = read_backbone(links)
    assert isinstance(found, Backbone)
    assert found.description is not None

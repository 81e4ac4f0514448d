from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from small_bundle import write_bundle, write_sites

from msdino_monai.federated.client import Member
from msdino_monai.federated.plan import Plan
from msdino_monai.federated.transport import pack, unpack
from msdino_monai.federated.workplace import build_site

Answered = tuple[bytes, dict[str, Any]]


class Failing(torch.nn.Module):
    def forward(self, *_: torch.Tensor) -> torch.Tensor:
        raise OSError("No space left on device")


class Hospital:
    """One site, and the tensors a server would send it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bundle, self.data = write_bundle(folder), write_sites(folder / "sites") / "hospital_a"
        self.start = build_site(self.bundle, self.data, folder / "coordinator", {}).tensors()

    def member(self, folder: str = "out", **given: Any) -> Member:
        site = build_site(self.bundle, self.data, self.folder / "coordinator", {})
        sites = ("hospital_a", "hospital_b")
        plan = Plan("small", "small_bundle", sites, **{"rounds": 4, "base": site.base(), **given})
        return Member(plan, "hospital_a", self.bundle, self.folder / folder)

    def ask(self, member: Member, number: int) -> Answered:
        request = {"round": number, "work": "train", "content": "full", "base": number - 1}
        return member.answer(pack(self.start, "fp32")[0], request)


@pytest.fixture
def hospital(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hospital:
    made = Hospital(tmp_path)
    monkeypatch.setenv("MSDINO_SITES_DIR", str(tmp_path / "sites"))
    return made


def residuals(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("residual_*"))


def test_site_whose_loss_raised_trains_again_in_the_next_round(hospital: Hospital) -> None:
    member, finished = hospital.member(), []
    assert hospital.ask(member, 1)[0]
    assert member._site is not None
    member._site.trainer.loss_function, member._site._finish = Failing(), lambda: finished.append(1)
    data, report = hospital.ask(member, 2)
    assert (data, report["error"]) == (b"", "OSError: No space left on device")
    data, report = hospital.ask(member, 3)
    assert "error" not in report
    sent = unpack(data, "fp32")
    assert not any(torch.equal(sent[name], tensor) for name, tensor in hospital.start.items())
    expected = unpack(hospital.ask(hospital.member("other"), 3)[0], "fp32")
    assert all(torch.equal(sent[name], expected[name]) for name in sent)
    assert finished == [1]  # what the failed one had cached is gone


def test_weight_is_what_could_be_used_in_this_rounds_training(hospital: Hospital) -> None:
    member = hospital.member()
    assert hospital.ask(member, 1)[1]["images"] == 24
    site = member._site
    assert site is not None
    site._images = lambda: 24 - site.trainer.state.epoch  # one more is refused in every round
    assert hospital.ask(member, 2)[1]["images"] == 22


def test_failed_last_round_leaves_nothing_behind(hospital: Hospital) -> None:
    member, finished = hospital.member(), []
    hospital.ask(member, 1)
    assert member._site is not None
    member._site.trainer.loss_function, member._site._finish = Failing(), lambda: finished.append(1)
    hospital.ask(member, 2)
    member.close()
    assert finished == [1]


def test_error_line_that_leaves_a_hospital_names_no_file(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSDINO_DATASET_DIR", str(hospital.data))
    member, page = hospital.member(), hospital.data / "datalist.json"
    content = json.loads(page.read_text())
    content["training"][0]["image"] = "MUELLER HANS 1951.npy"
    page.write_text(json.dumps(content))
    error = hospital.ask(member, 1)[1]["error"]
    assert error == "FileNotFoundError at this site; the whole line is in its own log"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"base": "0" * 64}, "the frozen base here is another one"),
        ({"agreement": {"classes": ["x"]}}, "something else: it differs in classes"),
    ],
)
def test_sentences_written_to_travel_leave_a_hospital(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], said: str
) -> None:
    monkeypatch.setenv("MSDINO_DATASET_DIR", str(hospital.data))
    assert said in hospital.ask(hospital.member(**given), 1)[1]["error"]


def test_missing_datalist_is_named(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSDINO_DATASET_DIR", str(hospital.data))
    member = hospital.member()
    (hospital.data / "datalist.json").unlink()
    assert "this site has no datalist.json" in hospital.ask(member, 1)[1]["error"]


def test_second_federation_in_the_same_folder_keeps_its_own_residuals(hospital: Hospital) -> None:
    folder = hospital.folder / "out"
    folder.mkdir()
    for number in (1, 2, 25, 26):
        stale = {name: torch.full_like(tensor, 9.0) for name, tensor in hospital.start.items()}
        safetensors.torch.save_file(stale, folder / f"residual_{number:05d}.safetensors")
    member, fresh = hospital.member(transport="int8"), hospital.member("fresh", transport="int8")
    for number in (1, 2):
        assert hospital.ask(member, number)[0] == hospital.ask(fresh, number)[0]
    assert residuals(folder) == ["residual_00002.safetensors", "residual_00003.safetensors"]
    own = safetensors.torch.load_file(folder / "residual_00002.safetensors")
    assert any(tensor.abs().max() > 0 for tensor in own.values())


def test_site_that_joins_in_the_second_round_keeps_its_new_residual(hospital: Hospital) -> None:
    member = hospital.member(transport="int8")
    member.folder.mkdir()
    for number in (25, 26):
        safetensors.torch.save_file(hospital.start, member.folder / f"residual_{number:05d}.safetensors")
    assert hospital.ask(member, 2)[0]
    assert residuals(member.folder) == ["residual_00003.safetensors"]


@pytest.mark.parametrize("transport", ["bf16", "int8"])
def test_nan_costs_a_site_that_rounds_one_round_only(hospital: Hospital, transport: str) -> None:
    faulty = hospital.member(transport=transport, settings={"fault": "hospital_a:2:nan"})
    assert hospital.ask(faulty, 1)[0]
    data, report = hospital.ask(faulty, 2)
    assert (data, report["error"]) == (b"", "head.bias is not finite")
    assert residuals(faulty.folder) == ["residual_00002.safetensors"]
    data, report = hospital.ask(faulty, 3)
    assert "error" not in report
    assert all(torch.isfinite(tensor).all() for tensor in unpack(data, transport).values())

"""The audit as a whole: what it must find, and that it finds the same again."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import Compose
from privacy_exports import BUNDLE

from msdino_monai.backbone import save_backbone
from msdino_monai.errors import UserError
from msdino_monai.exporting import defences
from msdino_monai.images.cohort import write_cohort
from msdino_monai.networks import PatchEmbedding, ViTBody
from msdino_monai.privacy.audit import AuditFailedError, PrivacyAudit
from msdino_monai.privacy.embedder import KnownEmbedder
from msdino_monai.privacy.evidence import Evidence
from msdino_monai.privacy.identification import infer_membership, link_images, link_patients
from msdino_monai.privacy.jigsaw import Witnesses
from msdino_monai.privacy.knowledge import Knowledge
from msdino_monai.privacy.pool import Radiograph
from msdino_monai.privacy.reconstruction import learn
from msdino_monai.privacy.row import Row, row_of_values
from msdino_monai.privacy.sample import Sample
from msdino_monai.privacy.simulation import SimulatedExport
from msdino_monai.privacy.solver import PairScores
from msdino_monai.privacy.verdict import JOINED_VIEWS, STRENGTH, THRESHOLDS, judge, loosened, weakened

LIMITS = {"max_order_leaks": 0, "max_neighbour_accuracy": 0.2}
TINY = {"img_size": 48, "patch_size": 8, "embedding_dim": 32, "margin": 1, "noise": 0.0}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("audited")
    write_cohort(str(root), sites=2, patients_per_site=30, seed=5, image_size=96)
    return root


@pytest.fixture(scope="module")
def run(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., PrivacyAudit]:
    """A small audit; `audit.json` and the rest lie in its `output_dir`."""

    def start(settings: dict[str, Any], images: Path = cohort / "site_a", **given: Any) -> PrivacyAudit:
        few = {"max_images": 3, "max_exported_images": 10, "training_steps": 3, "thresholds": LIMITS}
        few |= {"max_auxiliary_images": 16}
        audit = PrivacyAudit(BUNDLE, settings, images, tmp_path_factory.mktemp("audit") / "out", **{**few, **given})
        audit.run()
        return audit

    return start


def page_of(audit: PrivacyAudit) -> dict[str, Any]:
    return dict(json.loads((audit.output_dir / "audit.json").read_text()))


def figures(audit: PrivacyAudit, metric: str, attack: str = "") -> list[float]:
    return [
        row["figure"] for row in page_of(audit)["rows"] if row["metric"] == metric and row["attack"].startswith(attack)
    ]


@pytest.fixture(scope="module")
def bare(run: Callable[..., PrivacyAudit], radiographs: Path, cohort: Path) -> PrivacyAudit:
    """The shuffle and nothing else, on a real chest radiograph and three synthetic ones."""
    return run({"embedding_dim": 384, "margin": 0, "noise": 0.0}, radiographs, auxiliary_dir=cohort, max_images=4)


def test_bare_shuffle_fails_because_the_pictures_come_back(bare: PrivacyAudit) -> None:
    strongest = max((row for row in page_of(bare)["rows"] if row["metric"] == "neighbours"), key=lambda r: r["figure"])
    assert strongest["figure"] >= 0.95
    lines = csv.DictReader((bare.output_dir / "images.csv").read_text().splitlines())
    of_images = [float(e["value"]) for e in lines if (e["attack"], e["metric"]) == (strongest["attack"], "neighbours")]
    assert len(of_images) == 4, "the real radiograph is one of them"
    assert min(of_images) > 0.9
    assert max(figures(bare, "ssim", "jigsaw")) > 0.7
    assert not bare.verdict.passed
    with pytest.raises(AuditFailedError, match=r"FAILED: neighbouring patches .* \(--max_neighbour_accuracy\)"):
        bare.finish()


def test_report_shows_pictures_and_verdict_and_asks_for_nothing(bare: PrivacyAudit) -> None:
    html = (bare.output_dir / "report.html").read_text()
    pictures = page_of(bare)["pictures"]
    assert len(list((bare.output_dir / "pictures").iterdir())) == len(pictures)
    assert html.count('<img src="data:image/png') == len(pictures) >= 4 * 6
    assert html.count("<svg") == 3, "one view: no chart of views"
    assert "asked less than usual" in html
    assert "Failed: do not send" in html
    assert html.index("Failed: do not send") < html.index("<img")
    assert "http" not in html.replace("http-equiv", "").replace('xmlns="http://www.w3.org/2000/svg"', "")
    for words in (
        "text in the pixels",
        "no guarantee",
        "no threshold asks who it is",
        "neighbouring patches put together rightly",
    ):
        assert words in html.lower()


def test_report_fits_a_phone_and_paper_and_breaks_no_picture(
    bare: PrivacyAudit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "reporting"))
    from chromium import look_at, print_page

    sight = look_at(bare.output_dir / "report.html", tmp_path / "browser")
    for view in sight.views:
        assert view.scroll_width <= view.width
        assert (view.wide, view.broken) == ([], [])
        assert view.pictures == len(page_of(bare)["pictures"])
    assert sight.requests == []
    paper = print_page(bare.output_dir / "report.html", tmp_path / "paper")
    assert paper.startswith(b"%PDF-")
    assert (
        len(set(re.findall(rb"(\d+) 0 obj\s*<<[^>]*?/Subtype\s*/Image", paper))) >= len(page_of(bare)["pictures"]) // 2
    )


def test_margin_and_fewer_dimensions_leave_the_attackers_less(
    bare: PrivacyAudit, run: Callable[..., PrivacyAudit], radiographs: Path, cohort: Path
) -> None:
    defended = run({"embedding_dim": 64, "margin": 3, "noise": 0.0}, radiographs, auxiliary_dir=cohort, max_images=2)
    assert max(figures(defended, "neighbours", "jigsaw")) < 0.5 * max(figures(bare, "neighbours", "jigsaw"))
    assert max(figures(defended, "ssim", "jigsaw")) < max(figures(bare, "ssim", "jigsaw"))


def test_default_passes_on_a_real_radiograph_and_synthetic_ones(
    run: Callable[..., PrivacyAudit], radiographs: Path, cohort: Path
) -> None:
    audit = run({}, radiographs, auxiliary_dir=cohort, max_images=4)
    assert max(figures(audit, "neighbours", "jigsaw")) < 0.2
    assert audit.verdict.passed
    bare = run({"margin": 0, "noise": 0.0}, radiographs, auxiliary_dir=cohort, max_images=4)
    assert not bare.verdict.passed, "what passes must be margin and noise, not the attackers' weakness"


def test_second_audit_writes_the_same_bytes(run: Callable[..., PrivacyAudit]) -> None:
    """Although the shuffles differ, and noise, views and dropped tokens would if they were not drawn by the seed."""
    settings = {**TINY, "num_views": 2, "noise": 0.05, "kept_share": 0.75}
    first, second = (run(settings) for _ in range(2))
    pages = [page_of(audit) for audit in (first, second)]
    for page in pages:
        assert page.pop("seconds")
    assert json.dumps(pages[0]) == json.dumps(pages[1])
    names = [sorted(path.name for path in audit.output_dir.rglob("*.*")) for audit in (first, second)]
    assert names[0] == names[1]
    for path in [path for path in first.output_dir.rglob("*.*") if path.name not in ("audit.json", "report.html")]:
        assert path.read_bytes() == (second.output_dir / path.relative_to(first.output_dir)).read_bytes(), path.name


def test_every_row_says_who_knows_what_and_what_guessing_gives(run: Callable[..., PrivacyAudit], cohort: Path) -> None:
    audit = run({**TINY, "num_views": 2}, datalist=cohort / "site_a" / "datalist.json", max_exported_images=24)
    page = page_of(audit)
    for row in page["rows"]:
        assert set(row) == {*("attack", "metric", "figure", "interval", "chance", "n", "seed", "worst", "knows")}
        assert set(row["knows"]) == set(Knowledge().describe())
        assert row["n"] >= 3
        assert np.isfinite([row["figure"], row["chance"]]).all()
        assert row["interval"] is None or row["interval"][0] <= row["interval"][1]
    attacks = " ".join(row["attack"] for row in page["rows"])
    for words in ("order in the file", JOINED_VIEWS, "same image", "attribute inference", "secret map"):
        assert words in attacks
    jigsaws = {row["attack"]: row for row in page["rows"] if row["metric"] == "neighbours"}
    bounded = jigsaws.pop(JOINED_VIEWS)
    assert bounded["knows"]["all_views"]
    assert bounded["figure"] >= max(row["figure"] for row in jigsaws.values())
    judged = {check["threshold"]: check for check in page["verdict"]["checks"]}["max_neighbour_accuracy"]
    assert judged["attack"] == JOINED_VIEWS, "what views could join is held against the threshold"
    left_out = {each["attack"]: each["reason"] for each in page["left_out"]}
    assert "no pretrained body" in left_out["membership in the pretraining"]
    assert "6 of 8 pixels" in left_out["jigsaw of views together"]
    assert not list(audit.output_dir.glob("sample_*")), "the sample's export is gone"
    names = {path.stem for path in (cohort / "site_a" / "images").iterdir()} | {"SYN-A"}
    for name in ("audit.json", "report.html", "images.csv"):
        text = (audit.output_dir / name).read_text()
        assert not [each for each in names if each in text], f"{name} names nobody"
    assert audit.output_dir.stat().st_mode & 0o077 == 0, "it shows patients"


def test_old_verdict_does_not_outlive_a_broken_audit(cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o700)
    for name in ("audit.json", "report.html"):
        (tmp_path / "out" / name).write_text("Passed")
    (tmp_path / "few").mkdir()
    shutil.copy(next((cohort / "site_a" / "images").iterdir()), tmp_path / "few")
    audit = PrivacyAudit(BUNDLE, TINY, tmp_path / "few", tmp_path / "out", LIMITS)
    with pytest.raises(UserError, match="1 usable images"):
        audit.run()
    assert list((tmp_path / "out").iterdir()) == []


def unshuffled(views: np.ndarray, orders: np.ndarray) -> np.ndarray:
    return views[:, : orders.shape[1]]


def one_for_all(views: int, tokens: int) -> np.ndarray:
    return np.tile(np.random.default_rng(0).permutation(tokens), (views, 1))


def turned(views: int, tokens: int) -> np.ndarray:
    """Every view's tokens begin at another one, and go on in order."""
    return np.stack([np.roll(np.arange(tokens), np.random.default_rng().integers(tokens)) for _ in range(views)])


@pytest.mark.parametrize(
    ("name", "sabotage", "leak"),
    [
        ("shuffle_tokens", unshuffled, "tokens lie where they were"),
        ("draw_orders", one_for_all, "shuffles repeat"),
        ("draw_orders", turned, "neighbours follow each other"),
    ],
)
def test_sabotaged_export_is_caught_by_its_files(
    run: Callable[..., PrivacyAudit], monkeypatch: pytest.MonkeyPatch, name: str, sabotage: Any, leak: str
) -> None:
    monkeypatch.setattr(defences, name, sabotage)
    audit = run(TINY)
    assert leak in page_of(audit)["order_leaks"]
    assert figures(audit, "images whose files tell too much")[0] >= 0.8
    with pytest.raises(AuditFailedError, match=f"images whose files tell more .*{leak}.*report it"):
        audit.finish()


def test_verdict_takes_the_strongest_attacker_and_its_interval() -> None:
    rows = [
        row_of_values(f"jigsaw {number}", "neighbours", Knowledge(), values, 0.01)
        for number, values in enumerate(([0.1, 0.1, 0.1], [0.1, 0.2, 0.24], [0.0, 0.0, 0.0]))
    ]
    verdict = judge(rows, {"max_neighbour_accuracy": 0.2, "max_ssim_after_solver": None})
    assert verdict.passed
    assert "more images" in verdict.in_words(), "0.2 lies inside its interval"
    assert [check.attack for check in verdict.checks] == ["jigsaw 1"]
    assert not judge(rows, {"max_neighbour_accuracy": 0.1}).passed


def test_usual_thresholds_are_those_of_the_configuration() -> None:
    config = json.loads((BUNDLE / "configs" / "privacy_audit.json").read_text())
    assert {name: config[name] for name in THRESHOLDS} == {name: each.usual for name, each in THRESHOLDS.items()}
    usual = {name: each.usual for name, each in THRESHOLDS.items()}
    assert loosened(usual) == []
    assert loosened({**usual, "max_neighbour_accuracy": 0.5, "max_order_leaks": None}) == [
        "max_order_leaks",
        "max_neighbour_accuracy",
    ]


def test_threshold_that_is_no_number_is_refused_before_the_work() -> None:
    with pytest.raises(UserError, match="--max_neighbour_accuracy must be a number"):
        PrivacyAudit(BUNDLE, {}, ".", "o", {"max_neighbour_accuracy": "low"})
    with pytest.raises(ValueError, match="thresholds are max_order_leaks"):
        PrivacyAudit(BUNDLE, {}, ".", "o", {"max_neighbors": 0.1})
    with pytest.raises(UserError, match="--max_neighbour_accuracy is a share: at most 1, got 20"):
        PrivacyAudit(BUNDLE, {}, ".", "o", {"max_neighbour_accuracy": 20})


def test_usual_strength_is_that_of_the_configuration() -> None:
    config = json.loads((BUNDLE / "configs" / "privacy_audit.json").read_text())
    assert {name: config[name] for name in STRENGTH} == STRENGTH
    assert weakened(STRENGTH) == []
    assert weakened({**STRENGTH, "training_steps": 1, "max_images": 20}) == ["training_steps 1 of 1500"]


def test_audit_with_weaker_attackers_says_so(bare: PrivacyAudit) -> None:
    said = page_of(bare)["weaker_than_usual"]
    images = page_of(bare)["images"]
    assert said[:2] == ["max_images 4 of 12", f"max_exported_images {images['exported']} of 48"]
    assert said[2:] == [f"max_auxiliary_images {images['auxiliary']} of 480", "training_steps 3 of 1500"]
    page = (bare.output_dir / "report.html").read_text()
    assert "asked less than usual" in page
    assert said[-1] in page


class Says:
    """A scorer that is sure of some pairs and places."""

    knowledge = Knowledge(auxiliary_images=True)

    def __init__(self, right: np.ndarray, places: np.ndarray) -> None:
        self.right, self.places = right, places

    def scores(self, _: np.ndarray) -> tuple[PairScores, np.ndarray]:
        return PairScores(self.right, self.right.T).competing(), self.places


def test_two_witnesses_know_what_each_of_them_knows() -> None:
    """One knows who follows the first token, the other who follows the second."""
    first, second = np.zeros((4, 4), dtype=np.float32), np.zeros((4, 4), dtype=np.float32)
    first[0, 1] = second[1, 2] = 9
    pairs, places = Witnesses((Says(first, np.eye(4)), Says(second, 2 * np.eye(4)))).scores(np.zeros((4, 3)))
    assert pairs.right[0].argmax() == 1
    assert pairs.right[1].argmax() == 2
    np.testing.assert_array_equal(places, 3 * np.eye(4))


def opened_sample(auxiliary: torch.Tensor) -> tuple[Sample, PatchEmbedding]:
    """An export of some images as it would be opened, without an export."""
    embedding = PatchEmbedding(64, 8, 24, 1)
    embedder = KnownEmbedder.of(embedding)
    tokens = SimulatedExport.of(auxiliary, embedder).tokens[:, None]
    count = len(tokens)
    evidence = Evidence(tokens, (b"",) * count, embedder, 0.0, "float16", {})
    radiographs = tuple(Radiograph(f"{i}", f"p{i}", image[0].numpy()) for i, image in enumerate(auxiliary))
    orders = np.tile(np.arange(64), (count, 1, 1))
    return Sample(evidence, orders, auxiliary.numpy(), radiographs, (), Compose([]), {}), embedding


def test_membership_is_asked_of_a_body_and_of_strangers(auxiliary: torch.Tensor, tmp_path: Path) -> None:
    sample, embedding = opened_sample(auxiliary[:8])
    body = ViTBody(24, 16, 32, 1, 2)
    state = {f"body.{name}": tensor for name, tensor in body.state_dict().items()}
    state["embedding.weight"] = embedding.weight
    said = {"body": body.sizes(), "embedder": embedding.describe(), "sites": [], "settings": {}, "trained": {}}
    path = save_backbone(tmp_path / "models", state, said)
    others = auxiliary[8:, 0].numpy()
    rows = list(infer_membership(sample, others, path, are_strangers=True))
    assert [row.metric for row in rows if isinstance(row, Row)] == ["AUC", "TPR at 1 % FPR"]
    assert 0 <= rows[0].figure <= 1
    (left_out,) = infer_membership(sample, others, path, are_strangers=False)
    assert "auxiliary_dir" in left_out.reason
    wider, _ = opened_sample(auxiliary[:8])
    other = replace(wider, evidence=replace(wider.evidence, tokens=wider.evidence.tokens[..., :20]))
    with pytest.raises(UserError, match="trained on 24 dimensions, the export has 20"):
        list(infer_membership(other, others, path, are_strangers=True))


def test_attacker_learns_from_auxiliary_images_alone(auxiliary: torch.Tensor) -> None:
    """What it is about to attack may change as it likes; what it has learnt stays the same."""
    sample, _ = opened_sample(auxiliary[:6])
    tokens = np.random.default_rng(0).standard_normal(sample.evidence.tokens.shape).astype(np.float32)
    other = replace(sample, evidence=replace(sample.evidence, tokens=tokens), views=1 - sample.views)
    one, two = (learn(each, auxiliary[6:, 0].numpy(), steps=2) for each in (sample, other))
    np.testing.assert_array_equal(one.prior.covariance, two.prior.covariance)
    np.testing.assert_array_equal(one.average, two.average)
    for name in ("network", "inverter"):
        first, second = (getattr(each, name).state_dict() for each in (one, two))
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_second_radiograph_finds_its_patient_where_it_is_the_same_picture(auxiliary: torch.Tensor) -> None:
    sample, _ = opened_sample(auxiliary)
    relatives = [replace(image, file="again") for image in sample.radiographs[:4]]
    rows = list(link_patients(sample, relatives))
    assert [row.figure for row in rows if isinstance(row, Row) and row.metric == "top-1"] == [1.0, 1.0]
    (left_out,) = link_patients(sample, relatives[:1])
    assert "it needs 3" in left_out.reason


def test_linkage_says_what_it_starts_from(auxiliary: torch.Tensor) -> None:
    sample, _ = opened_sample(auxiliary[:6])
    rows = list(link_images(replace(sample, again=sample), auxiliary[6:, 0].numpy()))
    exports = [row for row in rows if row.knowledge == Knowledge(other_exports=True)]
    assert {row.attack.split(",")[1] for row in exports} == {" from another site's export of it"}
    assert [row.figure for row in exports if row.metric == "top-1"] == [1.0, 1.0], "the very same tokens"
    patients = link_patients(sample, [replace(image, file="again") for image in sample.radiographs[:4]])
    assert all(row.knowledge == Knowledge(known_patients=True) for row in patients if isinstance(row, Row))

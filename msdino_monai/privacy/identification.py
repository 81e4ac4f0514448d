"""Attacks that want no picture: who is it, what is known of them, were they in the training, and the secret map."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from msdino_monai.backbone import read_backbone
from msdino_monai.errors import UserError
from msdino_monai.networks import ViTBody
from msdino_monai.privacy import attribute, known_image, linkage, membership
from msdino_monai.privacy.inversion import cut_patches, join_patches
from msdino_monai.privacy.knowledge import Knowledge
from msdino_monai.privacy.pool import Radiograph
from msdino_monai.privacy.ranking import score_linkage, score_membership
from msdino_monai.privacy.row import Row, interval_of, row_of_values
from msdino_monai.privacy.sample import Sample
from msdino_monai.privacy.similarity import compare_pictures
from msdino_monai.privacy.simulation import SimulatedExport

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Body = Callable[[torch.Tensor], torch.Tensor]

_FEWEST_QUERIES = 3  # second radiographs below which linkage of patients says nothing
_COPIES = 4  # of every auxiliary image, augmented anew
_MOST_LEARNT = 120  # auxiliary images a metric is learnt from
_MOST_KNOWN = 6  # images that play the known one
_METHODS = {"sets of tokens": linkage.match_multisets, "pooled tokens": linkage.match_pooled}


@dataclass(frozen=True)
class LeftOut:
    """An attack that could not be run here, and why."""

    attack: str
    reason: str

    def describe(self) -> dict[str, str]:
        return dict(vars(self))


def link_images(sample: Sample, auxiliary: Floats, *, seed: int = 0) -> Iterator[Row]:
    """Which export is that of the picture I have? And which two exports show one picture?"""
    own = np.eye(len(sample), dtype=bool)
    gallery = sample.evidence.tokens[:, 0]
    pictures = sample.pictures
    if sample.again is not None:
        again = sample.again.evidence.tokens[:, 0]
        name = "same image, from another site's export of it"
        yield from _linkage(name, Knowledge(other_exports=True), again, gallery, own, seed)
    queries = _embedded(sample, pictures)
    yield from _linkage("same image, from the picture itself", linkage.PICTURE, queries, gallery, own, seed)
    # Who has the picture can export it many times, and learns from auxiliary images what augmentation changes.
    copies = [
        linkage.pool_tokens(_embedded(sample, auxiliary[:_MOST_LEARNT], augment=sample.augment, seed=seed + 2 + copy))
        for copy in range(_COPIES)
    ]
    metric = linkage.learn_metric(np.stack(copies, 1))
    queries = np.mean(
        [
            linkage.pool_tokens(_embedded(sample, pictures, augment=sample.augment, seed=seed + 50 + copy))
            for copy in range(2 * _COPIES)
        ],
        axis=0,
    )
    found = linkage.match_features(queries, linkage.pool_tokens(gallery), metric)
    knowledge = replace(linkage.PICTURE, auxiliary_images=True)
    yield from _linkage_rows("same image, from the picture itself, by learnt features", knowledge, found, own, seed)


def link_patients(sample: Sample, relatives: Sequence[Radiograph], *, seed: int = 0) -> Iterator[Row | LeftOut]:
    """Which export is of the patient whose other radiograph I have?"""
    name = "same patient, from another radiograph"
    if len(relatives) < _FEWEST_QUERIES:
        many = f"{len(relatives)} second radiographs of exported patients are known"
        yield LeftOut(name, f"{many}; it needs {_FEWEST_QUERIES} (a datalist's `patient`, or DICOM PatientID)")
        return
    patients = [image.patient for image in sample.radiographs]
    matches = np.array([[image.patient == patient for patient in patients] for image in relatives])
    queries = _embedded(sample, np.stack([image.picture for image in relatives]))
    yield from _linkage(name, Knowledge(known_patients=True), queries, sample.evidence.tokens[:, 0], matches, seed)


def _embedded(sample: Sample, pictures: Floats, augment: Any = None, seed: int = 0) -> Floats:
    """Pictures (B, H, W) as this export would write them, without a shuffle (no linkage minds)."""
    evidence = sample.evidence
    set_seed = getattr(augment, "set_random_state", None)
    if set_seed is not None:
        set_seed(seed=seed)
    given = torch.from_numpy(pictures)[:, None]
    noise = evidence.noise if augment is not None else 0.0
    return SimulatedExport.of(
        given, evidence.embedder, noise=noise, dtype=evidence.dtype, augment=augment, seed=seed
    ).tokens


def _linkage(
    name: str, knowledge: Knowledge, queries: Floats, gallery: Floats, matches: Bools, seed: int
) -> Iterator[Row]:
    for method, match in _METHODS.items():
        yield from _linkage_rows(f"{name}, by {method}", knowledge, match(queries, gallery), matches, seed)


def _linkage_rows(attack: str, knowledge: Knowledge, similarity: Floats, matches: Bools, seed: int) -> Iterator[Row]:
    score = score_linkage(similarity, matches)
    queries = [score_linkage(similarity[[row]], matches[[row]]) for row in np.flatnonzero(matches.any(1))]
    chances = {"top_1": score.chance, "mean_average_precision": _guessed_precision(matches)}
    for metric, name in (("top-1", "top_1"), ("mean average precision", "mean_average_precision")):
        yield row_of_values(
            attack, metric, knowledge, [getattr(query, name) for query in queries], chances[name], seed=seed
        )

    def curve(rows: npt.NDArray[np.intp]) -> float:
        return score_linkage(similarity[rows], matches[rows]).auc

    yield Row(
        attack=attack,
        metric="AUC",
        knowledge=knowledge,
        figure=score.auc,
        interval=interval_of(curve, len(similarity), seed),
        chance=0.5,
        n=len(similarity),
        seed=seed,
    )


def _guessed_precision(matches: Bools, draws: int = 200) -> float:
    """Mean average precision of similarities drawn at random."""
    generator = np.random.default_rng(0)
    guesses = [score_linkage(generator.random(matches.shape), matches) for _ in range(draws)]
    return float(np.mean([guess.mean_average_precision for guess in guesses]))


def infer_attributes(
    sample: Sample, labels: Mapping[str, npt.NDArray[np.int64]], *, seed: int = 0
) -> Iterator[Row | LeftOut]:
    """What a probe reads off pooled tokens, trained on the labels of the other exported images."""
    if not labels:
        reason = "nothing has two classes of 6 exported images each (a datalist's `label`, DICOM headers, folders)"
        yield LeftOut("attribute inference", reason)
    for name, of_all in labels.items():
        known_images = np.flatnonzero(of_all >= 0)
        classes = np.unique(of_all[known_images], return_inverse=True)[1].astype(np.int64)
        patients = [sample.radiographs[image].patient for image in known_images]
        tokens = sample.evidence.tokens[known_images, 0]
        scores = attribute.guess_attribute(tokens, classes, patients=patients, seed=seed)

        def curve(
            rows: npt.NDArray[np.intp],
            scores: npt.NDArray[np.floating[Any]] = scores,
            classes: npt.NDArray[np.int64] = classes,
        ) -> float:
            known = classes[rows]
            return attribute.score_attribute(scores[rows], known).auc if len(np.unique(known)) > 1 else float("nan")

        yield Row(
            attack=f"attribute inference: {name}",
            metric="AUC",
            knowledge=attribute.KNOWLEDGE,
            figure=attribute.score_attribute(scores, classes).auc,
            interval=interval_of(curve, len(classes), seed),
            chance=0.5,
            n=len(classes),
            seed=seed,
        )


def infer_membership(
    sample: Sample, others: Floats, backbone: str | Path | None, *, are_strangers: bool, seed: int = 0
) -> Iterator[Row | LeftOut]:
    """Was the image's export used to pretrain that body? The sample plays the members, `others` (B, H, W) do not."""
    name = "membership in the pretraining"
    if backbone is None:
        yield LeftOut(name, "no pretrained body is given (--backbone)")
        return
    if not are_strangers:
        yield LeftOut(name, "needs --auxiliary_dir with images the body has not been trained on")
        return
    trained, fresh = _bodies(backbone, sample.evidence.tokens.shape[-1], seed)
    inside, outside = _embedded(sample, sample.pictures), _embedded(sample, others)
    scores = membership.agreement_scores(trained, np.concatenate([inside, outside]), reference=fresh, seed=seed)
    members, strangers = scores[: len(inside)], scores[len(inside) :]

    def again(rows: npt.NDArray[np.intp], field: str) -> float:
        mine, theirs = rows[rows < len(members)], rows[rows >= len(members)] - len(members)
        if not len(mine) or not len(theirs):
            return float("nan")
        return float(getattr(score_membership(members[mine], strangers[theirs]), field))

    score = score_membership(members, strangers)
    for metric, field, chance in (("AUC", "auc", 0.5), ("TPR at 1 % FPR", "tpr_at_1_percent_fpr", 0.01)):
        yield Row(
            attack=name,
            metric=metric,
            knowledge=membership.KNOWLEDGE,
            figure=float(getattr(score, field)),
            interval=interval_of(lambda rows, field=field: again(rows, field), len(scores), seed),  # type: ignore[misc]
            chance=chance,
            n=len(scores),
            seed=seed,
        )


def _bodies(backbone: str | Path, embedding_dim: int, seed: int) -> tuple[Body, Body]:
    """The returned body, and a fresh one of its sizes; both give the class token."""
    found = read_backbone(backbone)
    if found.description is None:
        raise UserError(f"nothing beside {found.path} says what it is; copy its .json from where it was trained.")
    sizes = dict(found.description["body"])
    if sizes["embedding_dim"] != embedding_dim:
        raise UserError(
            f"the body was trained on {sizes['embedding_dim']} dimensions, the export has {embedding_dim}; "
            "audit the settings it was trained on."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trained, fresh = ViTBody(**sizes), ViTBody(**sizes)
    trained.load_state_dict(
        {name.removeprefix("body."): tensor for name, tensor in found.state.items() if name.startswith("body.")}
    )
    first, second = trained.eval(), fresh.eval()
    return (lambda tokens: first(tokens)[:, 0]), (lambda tokens: second(tokens)[:, 0])


def break_secret_map(sample: Sample, *, seed: int = 0) -> Row:
    """Were the embedder a secret rotation: one image the attacker knows opens the next one."""
    embedder = sample.evidence.embedder
    pictures = sample.pictures[: _MOST_KNOWN + 1]
    patches = 2 * cut_patches(pictures, embedder.patch_size, embedder.margin).astype(np.float64) - 1
    flat = patches.reshape(*patches.shape[:2], -1)
    generator = np.random.default_rng(seed)
    secret, _ = np.linalg.qr(generator.standard_normal((flat.shape[-1],) * 2))
    wrong, _ = np.linalg.qr(generator.standard_normal((flat.shape[-1],) * 2))
    values: list[float] = []
    chance: list[float] = []
    for known in range(len(pictures) - 1):
        shuffled = generator.permutation(flat.shape[1])
        tokens = flat[known + 1] @ secret.T
        truth = _opened(flat[known + 1], embedder.width, embedder.grid)
        found = known_image.recover_map(flat[known], (flat[known] @ secret.T)[shuffled])
        for guess, scores in ((found, values), (wrong, chance)):
            scores.append(compare_pictures(_opened(tokens @ guess, embedder.width, embedder.grid), truth).ssim)
    return row_of_values(
        "known image against a secret map (not offered), order known",
        "ssim",
        Knowledge(known_images=True, embedder=False, order=True),
        values,
        chance,
        seed=seed,
    )


def _opened(flat: npt.NDArray[np.float64], width: int, grid: tuple[int, int]) -> Floats:
    patches = ((flat + 1) / 2).clip(0, 1).reshape(-1, width, width).astype(np.float32)
    return join_patches(patches, np.arange(len(patches)), grid)

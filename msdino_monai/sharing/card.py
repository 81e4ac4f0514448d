"""The model card of a package: what its metadata, its weights and its evaluation say, in one page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msdino_monai.errors import UserError
from msdino_monai.sharing.bundle import Bundle
from msdino_monai.sharing.weight import read_weights
from msdino_monai.vault.atomic import hash_file

METRICS = "eval/metrics.json"
_SIMPLE = (
    ("Task", "task"),
    ("Intended use", "intended_use"),
    ("Data", "data_source"),
    ("Data formats", "data_type"),
    ("Image values", "image_classes"),
    ("Labels", "label_classes"),
    ("Output", "pred_classes"),
    ("Authors", "authors"),
    ("Copyright", "copyright"),
)


def model_card(bundle: Bundle, weights: str) -> str:
    """Markdown; `weights` says where they come from."""
    about, sha256 = bundle.metadata, hash_file(bundle.model)
    count = sum(tensor.numel() for tensor in read_weights(bundle.model).values())
    lines = [f"# {about.get('name', bundle.name)} {bundle.version}", "", str(about.get("description", "")), ""]
    lines += [f"- **{title}**: {about[field]}" for title, field in _SIMPLE if about.get(field)]
    lines += ["", "## Weights", "", f"{weights}. {count:,} numbers; sha256 of `models/model.pt`: `{sha256}`.", ""]
    lines += [
        "## Input and output",
        "",
        "| name | channels | shape | values | channel names |",
        "|---|---|---|---|---|",
    ]
    lines += [_format_row(*each) for each in _formats(about)]
    lines += ["", "## Evaluation", "", *_evaluation(bundle, sha256), "", "## Limits", ""]
    lines += ["Research software, not a medical device. Figures hold for the data they were measured on.", ""]
    if about.get("references"):
        lines += ["## References", "", *(f"- {reference}" for reference in about["references"]), ""]
    lines += ["## License", "", "See LICENSE. A bundle is code: its configuration is run as Python.", ""]
    return "\n".join(lines)


def _formats(about: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for side in ("inputs", "outputs"):
        try:
            yield from about["network_data_format"][side].items()
        except (KeyError, TypeError, AttributeError):
            raise UserError(f"metadata.json has no network_data_format#{side}; add it.") from None


def _format_row(name: str, said: Mapping[str, Any]) -> str:
    shape = " x ".join(map(str, said.get("spatial_shape", []))) or "-"
    values = ", ".join(map(str, said.get("value_range", []))) or "-"
    names = ", ".join(map(str, said.get("channel_def", {}).values())) or "-"
    return f"| {name} | {said.get('num_channels', '-')} | {shape} | {values} | {names} |"


def _evaluation(bundle: Bundle, sha256: str) -> list[str]:
    path = bundle.root / METRICS
    if not path.is_file():
        return [f"Not measured: the bundle had no `{METRICS}` when it was packed."]
    metrics = _read(path)
    if metrics.get("model_sha256") != sha256:
        raise UserError(f"{path} was not measured with {bundle.model}; evaluate again, or move it away.")
    rows = list(_figures(metrics))
    head = [f"Section: {metrics.get('section', 'unknown')}. Intervals: {metrics.get('intervals', 'none')}.", ""]
    return [*head, "| figure | value | interval |", "|---|---|---|", *rows]


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path} is no JSON object; evaluate again, or move it away.")
    return content


def _figures(content: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """A row for every number, with its interval where it has one; texts and lists are left out."""
    for name, value in content.items():
        title = f"{prefix}{name}"
        if isinstance(value, dict) and "value" in value:
            interval = value.get("interval")
            shown = " to ".join(map(_number, interval)) if isinstance(interval, list) else "-"
            yield f"| {title} | {_number(value['value'])} | {shown} |"
        elif isinstance(value, dict):
            yield from _figures(value, f"{title}: ")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"| {title} | {_number(value)} | - |"


def _number(value: Any) -> str:
    return "undefined" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""`lzn info`, `lzn data` and `lzn curves`: what a model can do, what training finds in a folder of images, and how it went."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from huggingface_hub.errors import EntryNotFoundError

from ..card_lzn import label_names
from ..evaluation.results import write_json
from ..training.mistakes import UsageError
from .models import open_encoder


def abilities(model: Any) -> list[str]:
    """Returns the commands that a model is for."""
    config = model.config
    sees, draws = model.encoder is not None, model.decoder is not None
    knows = model.reference_anchors is not None and bool(model.reference_anchors.weight.any())
    can = ["generate"] if draws else []
    can += ["generate --prompt"] if draws and config.text_config is not None else []
    can += ["classify"] if sees and config.num_labels and knows else []
    can += ["classify --text"] if sees and config.text_config is not None else []
    can += ["embed"] if sees else []
    can += ["reconstruct", "interpolate"] if draws and (knows or (not sees and not config.num_labels)) else []
    return can


def describe(model: str) -> dict[str, Any]:
    """Returns what a saved model is, can do, and was measured to do, as JSON values."""
    opened, _ = open_encoder(model, "cpu")
    config: Any = opened.config
    parts = {name: part for name, part in opened.named_children() if any(p.numel() for p in part.parameters())}
    references = opened.reference_anchors
    card = _card(model)
    results = getattr(card and card.data, "eval_results", None) or []
    return {
        "model": model,
        "can": abilities(opened),
        "images": {"size": config.image_size, "channels": config.num_channels},
        "labels": label_names(config),
        "latent_dim": config.latent_dim,
        "encoder": config.encoder_type,
        "decoder": config.decoder_type,
        "texts": None if config.text_config is None else config.text_config.model_type,
        "reference_anchors": 0 if references is None else len(references.weight),
        "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()},
        "results": {f"{result.metric_type} ({result.dataset_name})": result.metric_value for result in results},
    }


def _card(model: str) -> ModelCard | None:
    """Reads the card of a saved model, if it has one."""
    if Path(model).is_dir():
        path = Path(model) / "README.md"
        return ModelCard.load(path) if path.is_file() else None
    try:
        return ModelCard.load(model)
    except EntryNotFoundError:
        return None


def info(model: str, *, as_json: bool = False) -> None:
    """Prints what a saved model is and can do.

    Args:
        model (`str`): folder or hub id of a saved model.
        as_json (`bool`, *optional*, defaults to `False`): whether to print JSON.
    """
    facts = describe(model)
    if as_json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    size, channels = facts["images"]["size"], facts["images"]["channels"]
    colour = {1: "grey", 3: "RGB", 4: "RGB and alpha"}.get(channels, f"{channels} channels")
    labels, shown = facts["labels"], ", ".join(facts["labels"][:12])
    lines = [
        ("can", ", ".join(f"lzn {command}" for command in facts["can"]) or "nothing by itself"),
        ("images", f"{size} x {size}, {colour}"),
        ("labels", f"{len(labels)}: {shown}{', ...' if len(labels) > 12 else ''}" if labels else "none"),
        ("networks", f"encoder {facts['encoder'] or 'none'}, decoder {facts['decoder'] or 'none'}"),
        ("texts", facts["texts"] or "none"),
        ("latents", f"{facts['latent_dim']} dimensions, {facts['reference_anchors']:,} reference anchors"),
        ("parameters", ", ".join(f"{name} {count:,}" for name, count in facts["parameters"].items())),
        ("results", ", ".join(f"{name}: {value}" for name, value in facts["results"].items()) or "none in its card"),
    ]
    print(model)
    for name, text in lines:
        print(f"  {name + ':':12} {text}")


def data(source: str, flags: Sequence[str] = (), *, out: str | None = None) -> None:
    """Prints what training finds, uses and leaves out in data, and why.

    Args:
        source (`str`): a folder, a zip archive, `digits`, or the id of a dataset on the Hub.
        flags (`Sequence[str]`, *optional*): flags of the training scripts about data.
        out (`str`, *optional*): a JSON file for the same.

    Raises:
        ValueError: for whatever is wrong with the data or the flags.
    """
    from ..evaluation.processes import process_state
    from ..training.arguments import DataArguments
    from ..training.batches import load_data
    from ..training.command_line import parse_command_line

    known = "--data_dir" if Path(source).exists() else "--dataset_name"
    (arguments,) = parse_command_line([DataArguments], [known, source, *flags], "Flags of `lzn data`.")
    found = load_data(process_state(), arguments, require_labels=False)
    print(found.summary)
    if out is not None:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(out), found.summary.to_dict())
        print(f"Wrote {out}")


def curves(runs: Sequence[str], *, out: str = "curves.png", smoothing: int | None = None) -> None:
    """Draws the metrics of training runs over their steps.

    Args:
        runs (`Sequence[str]`): see [`plot_curves`].
        out (`str`, *optional*, defaults to `"curves.png"`): the picture, in any form that matplotlib writes.
        smoothing (`int`, *optional*): see [`plot_metrics`].

    Raises:
        ValueError: as [`plot_curves`], and for another form of picture.
    """
    from ..visualization.runs import plot_curves

    figure, path = plot_curves(runs, smoothing=smoothing), Path(out)
    known = figure.canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise UsageError(f"`--out` must end in {', '.join(f'.{name}' for name in sorted(known))}, got {out!r}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    print(f"curves: {path}")


__all__ = ["abilities", "curves", "data", "describe", "info"]

# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The card of a folder that is shared: one that there is, completed, or a new one; and its results as the Hub collects them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any

from huggingface_hub import EvalResultEntry, ModelCard, eval_result_entries_to_yaml
from huggingface_hub.utils import yaml_dump

from ..card_lzn import ANY_FOLDER, EXAMPLE_TEXTS, card_metadata, check_license, quoted, remote_usage, usage
from .cards import LIMITS_HEADING, limits_section, replace_section


logger = logging.getLogger(__name__)

USAGE_HEADING = "## How to use"
REMOTE_HEADING = "## Without lzn_hf"
REMOTE_TEXT = """This repository holds the code of the model, too. `trust_remote_code=True` runs it on your machine: read the `*.py` files first, or
name the revision that you have read, `revision="..."`. They are those of lzn_hf, under Apache 2.0; this says nothing of the licence of
the weights."""


def complete_card(
    card: ModelCard | None,
    config: Any,
    *,
    model_id: str,
    license: str | None = None,
    dataset_id: str | None = None,
    widget: list[dict[str, Any]] | None = None,
    samples: str | None = None,
    texts: Sequence[str] | None = EXAMPLE_TEXTS,
) -> ModelCard:
    """Completes a card: metadata, code that loads from the new place, and the sections that it lacks. What people wrote stays.

    Args:
        card (`ModelCard`, *optional*): the card. `None`: a new one is made.
        config ([`LZNConfig`]): the model's config.
        model_id (`str`): argument of `from_pretrained`: a Hub id or a folder.
        license (`str`, *optional*): licence of the weights, in place of that of the card.
        dataset_id (`str`, *optional*): id on the Hub of the data that the results in the card are of.
        widget (`list[dict]`, *optional*): examples for the widget of the Hub.
        samples (`str`, *optional*): file name of a grid of samples.
        texts (sequence of `str`, *optional*): see [`usage`].

    Returns:
        `ModelCard`: a new card, not saved yet.
    """
    name = model_id.rstrip("/").split("/")[-1]
    metadata = card_metadata(config)
    if card is None:
        network = "A [Latent Zoning Network](https://arxiv.org/abs/2509.15591)."
        card = ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n# {name}\n\n{network}\n")
    data: Any = ModelCard(card.content).data  # a copy
    text = card.text
    text = _move(text, data.model_name, model_id, name)
    data.library_name, data.pipeline_tag, data.model_name = metadata.library_name, metadata.pipeline_tag, name
    data.tags = list(dict.fromkeys([*(data.tags or []), *(metadata.tags or [])]))
    data.license = check_license(license) or data.license
    if widget:
        data["widget"] = widget
    if dataset_id is not None:
        data.datasets = data.datasets or [dataset_id]
        for result in data.eval_results or []:
            result.dataset_type = dataset_id if result.dataset_type == result.task_type else result.dataset_type

    lines = text.splitlines()
    if samples is not None and f"]({samples})" not in text:
        text = replace_section(text, f"## Samples\n\n![Samples]({samples})")
    if USAGE_HEADING not in lines:
        text = replace_section(
            text, f"{USAGE_HEADING}\n\n{usage(config, model_id, texts=texts)}", before=LIMITS_HEADING
        )
    remote = f"{REMOTE_HEADING}\n\n{REMOTE_TEXT}\n\n{remote_usage(config, model_id, texts)}"
    text = replace_section(text, remote, before=_heading_after(text, USAGE_HEADING))
    if LIMITS_HEADING not in lines:
        text = replace_section(text, limits_section(config), before=_heading_after(text, REMOTE_HEADING))
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text.strip()}\n")


def tried_texts(card: ModelCard | None) -> Sequence[str]:
    """The texts that the code of a card tries, as [`usage`] writes it; [`EXAMPLE_TEXTS`] of another card."""
    found = re.search(r"pipe\.caption\(images, (\[.*?\])\)", "" if card is None else card.text)
    try:
        texts = json.loads(found[1]) if found else []
    except ValueError:  # which somebody has written in another way
        texts = []
    return texts if len(texts) > 1 and all(isinstance(text, str) for text in texts) else EXAMPLE_TEXTS


def eval_result_files(card: ModelCard) -> dict[str, str]:
    """The results of a card as files of the Hub's newer format, by path. Results on data that has no id on the Hub cannot be in one.

    Args:
        card (`ModelCard`): with results in its metadata, see [`evaluation_results`].
    """
    entries: dict[str, list[EvalResultEntry]] = {}
    data: Any = card.data
    for result in data.eval_results or []:
        if result.dataset_type != result.task_type:
            how = [result.metric_name, result.dataset_split and f"{result.dataset_split} split", "measured by lzn_hf"]
            entry = EvalResultEntry(
                dataset_id=result.dataset_type,
                task_id=result.metric_type,
                value=result.metric_value,
                notes=", ".join(filter(None, how)),
            )
            entries.setdefault(result.dataset_type, []).append(entry)
    return {
        f".eval_results/{dataset_id.replace('/', '--')}.yaml": yaml_dump(eval_result_entries_to_yaml(rows))
        for dataset_id, rows in entries.items()
    }


def linked_files(card: ModelCard) -> Iterator[str]:
    """The paths in the folder of a card that its text or widget shows, once each; none leads out of the folder."""
    found = re.findall(r"\]\(([^)\s]+)\)", card.text)
    for example in card.data.get("widget") or []:
        found += [example.get("src"), (example.get("output") or {}).get("url")]
    for path in dict.fromkeys(filter(None, found)):
        if not re.match(r"[a-z]+:|[/#]", path, re.IGNORECASE) and ".." not in path.split("/"):
            yield path


def _move(text: str, old_name: str | None, model_id: str, name: str) -> str:
    """Makes the code of a card load from `model_id` what it loaded from where the model was."""

    def moved(match: re.Match) -> str:
        old = match[2]
        is_this = old == ANY_FOLDER or (old_name is not None and old.rstrip("/").split("/")[-1] == old_name)
        return f"{match[1]}{quoted(model_id)}" if is_this else match[0]

    def in_code(match: re.Match) -> str:
        return re.sub(r'(from_pretrained\(|model=)"([^"\\]*)"', moved, match[0])

    text = re.sub(r"^```py\n.*?^```$", in_code, text, flags=re.MULTILINE | re.DOTALL)
    return (
        text
        if old_name is None
        else re.sub(rf"\A# {re.escape(old_name)}$", lambda _: f"# {name}", text.lstrip(), flags=re.MULTILINE)
    )


def _heading_after(text: str, heading: str) -> str | None:
    """The next heading of level 2 after another one; `None` if that is the last."""
    headings = re.findall(r"^## .+$", text, re.MULTILINE)
    return next(iter(headings[headings.index(heading) + 1 :]), None)


__all__ = ["complete_card", "eval_result_files", "linked_files", "tried_texts"]

# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""`lzn classify` and `lzn embed`: labels or texts of images, and their embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from .. import LZNModel
from ..card_lzn import label_names
from ..checks_lzn import check_at_least, check_result
from ..modeling_lzn import evaluation_mode
from .files import TABLES, TENSORS, PixelBatches, check_out, find_images, write_table, write_tensors
from .models import open_encoder, open_pipeline


def classify(
    model: str,
    images: Sequence[str],
    *,
    texts: Sequence[str] = (),
    top: int = 5,
    out: str | None = None,
    batch_size: int = 64,
    device: str = "auto",
) -> None:
    """Finds the most probable labels of images, or the texts that fit them best, each image by itself.

    Args:
        model (`str`): folder or hub id of a saved model.
        images (`Sequence[str]`): see [`find_images`].
        texts (`Sequence[str]`, *optional*): candidates, for a model that has texts, instead of its labels; each counts once.
        top (`int`, *optional*, defaults to 5): labels of each image.
        out (`str`, *optional*): a table with a row for each image and rank; or safetensors with all `scores` `(N, labels)`. By default the
            table is printed.
        batch_size (`int`, *optional*, defaults to 64): images encoded at once.
        device (`str`, *optional*, defaults to `"auto"`): see [`find_device`].

    Raises:
        ValueError: as [`LZNPipeline.classify`], for words that name no images, and, when the others are written, for images that cannot
            be read.
    """
    check_at_least(1, top=top, batch_size=batch_size)
    path = None if out is None else check_out(out, TABLES + TENSORS)
    files = find_images(images)
    if texts:
        names, pipe = list(dict.fromkeys(texts)), open_pipeline(model, device, "classifying")
        found, batches = [], PixelBatches(files, pipe.image_processor, batch_size, "classifying")
        for batch in batches:
            found += pipe.caption({"pixel_values": batch}, names, top_k=len(names), batch_size=batch_size)
        order = [[names.index(entry["text"]) for entry in row] for row in found]
        sorted_scores = torch.tensor([[entry["score"] for entry in row] for row in found])
        scores = torch.zeros_like(sorted_scores).scatter(1, torch.tensor(order), sorted_scores)
    else:
        encoder, processor = open_encoder(model, device)
        names = label_names(encoder.config)
        if not names:
            remedy = (
                "it can embed (`lzn embed`)" if encoder.config.text_config is None else "give it texts by `--text`"
            )
            raise ValueError(f"the model {model!r} has no labels, so it cannot classify: {remedy}.")
        batches = PixelBatches(files, processor, batch_size, "classifying")
        scores = check_result("scores", _run(encoder, encoder.classify_images, batches).exp())
    files = batches.read
    if path is not None and path.suffix.lower() in TENSORS:
        write_tensors(path, {"scores": scores}, files=[str(file) for file in files], labels=names)
    else:
        best, ids = scores.topk(min(top, len(names)))
        table = [
            {"file": str(file), "rank": rank + 1, "label": names[i], "score": score}
            for file, *row in zip(files, best.tolist(), ids.tolist(), strict=True)
            for rank, (score, i) in enumerate(zip(*row, strict=True))
        ]
        if path is None:
            for row in table:
                print(f"{row['file']}\t{row['label']}\t{row['score']:.4f}")
        else:
            write_table(path, table)
    if path is not None:
        print(f"{len(files):,} images classified: {path}")
    batches.check_all_read()


def embed(
    model: str,
    images: Sequence[str],
    *,
    out: str,
    kind: str = "embeddings",
    batch_size: int = 64,
    device: str = "auto",
) -> None:
    """Computes embeddings of images, each by itself.

    Args:
        model (`str`): folder or hub id of a saved model.
        images (`Sequence[str]`): see [`find_images`].
        out (`str`): safetensors with `embeddings` `(N, F)` and the names of the files in its metadata; or a table with a row for each image.
        kind (`str`, *optional*, defaults to `"embeddings"`): see [`LZNModel.get_image_features`].
        batch_size (`int`, *optional*, defaults to 64): images encoded at once.
        device (`str`, *optional*, defaults to `"auto"`): see [`find_device`].

    Raises:
        ValueError: as [`LZNPipeline.embed`], for words that name no images, and, when the others are written, for images that cannot
            be read.
    """
    check_at_least(1, batch_size=batch_size)
    path = check_out(out, TENSORS + TABLES)
    files = find_images(images)
    encoder, processor = open_encoder(model, device)
    function = partial(encoder.get_image_features, kind=kind)
    batches = PixelBatches(files, processor, batch_size, "embedding")
    embeddings = check_result("embeddings", _run(encoder, function, batches))
    files = batches.read
    if path.suffix.lower() in TENSORS:
        write_tensors(path, {"embeddings": embeddings}, files=[str(file) for file in files])
    elif path.suffix.lower() == ".csv":
        columns = [f"e{i}" for i in range(embeddings.shape[1])]
        write_table(
            path,
            [
                {"file": str(file), **dict(zip(columns, row, strict=True))}
                for file, row in zip(files, embeddings.tolist(), strict=True)
            ],
        )
    else:
        pairs = zip(files, embeddings.tolist(), strict=True)
        write_table(path, [{"file": str(file), "embedding": row} for file, row in pairs])
    print(f"{len(files):,} embeddings of {embeddings.shape[1]} numbers: {path}")
    batches.check_all_read()


def _run(encoder: LZNModel, function: Callable[[Tensor], Tensor], batches: Iterable[Tensor]) -> Tensor:
    """Calls a method of a model on batches of pixel values. Returns all rows, float32 on the CPU."""
    with evaluation_mode(encoder):
        return torch.cat([function(batch.to(encoder.device)).float().cpu() for batch in batches])


__all__ = ["classify", "embed"]

# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""How good a representation is: linear probe and nearest neighbours, functions of features and labels alone.

[`collect_features`] makes the features. Everything random follows from a seed, and nothing is chosen by looking at the
test images. Fine-tuning, and the evaluation of a saved folder, are in `evaluation.representation`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.batches import to_pixel_values
from ..latent_zones import compute_latents
from ..modeling_lzn import LZNModel, evaluation_mode


FEATURE_KINDS = ("embeddings", "anchors", "latents")
WEIGHT_DECAYS = (0.1, 1.0, 10.0, 100.0, 1000.0)
MAX_EVALUATIONS = 5000  # of the objective of a linear probe; 60,000 x 512 features that do not separate well need 500


# Features ------------------------------------------------------------------------------------------------------------


def collect_features(
    model: LZNModel, batches: Iterable[dict[str, Tensor]], kind: str = "embeddings", *, progress: bool = False
) -> tuple[Tensor, Tensor]:
    """Features of images with their labels, on the CPU. Each row is a function of its image alone.

    Args:
        model: Put into evaluation mode for the time of the call.
        batches: As of [`data.batches.image_batches`]: `uint8` images `(B, C, H, W)` and int64 labels.
        kind: `"embeddings"` (`get_image_features`, before the head), `"anchors"` (`get_image_anchors`, after it) or
            `"latents"` (`get_image_latents` without noise: the middle of the image's zone among the model's reference
            anchors).
        progress: Whether to show a progress bar.

    Returns:
        Features `(N, F)`, float32, and labels `(N,)`, int64.

    Raises:
        ValueError: for another kind, latents of a model without reference anchors, no images, or images without labels.
    """
    features, labels = collect_all_features(model, batches, [kind], progress=progress)
    return features[kind], labels


def collect_all_features(
    model: LZNModel, batches: Iterable[dict[str, Tensor]], kinds: Sequence[str], *, progress: bool = False
) -> tuple[dict[str, Tensor], Tensor]:
    """[`collect_features`] of several kinds that encodes each image once; the features by kind, and the labels."""
    from tqdm.auto import tqdm

    if not kinds or not set(kinds) <= set(FEATURE_KINDS):
        raise ValueError(f"`kind` must be one of {', '.join(FEATURE_KINDS)}, got {', '.join(kinds) or 'none'}.")
    if "latents" in kinds and model.reference_anchors is None:
        raise ValueError(
            "`kind` is latents, but the model has no reference anchors to place an image among: call "
            "`model.set_reference_anchors(model.get_image_anchors(training_images))` first."
        )
    require_encoder(model)
    rows: dict[str, list[Tensor]] = {kind: [] for kind in kinds}
    labels = []
    with evaluation_mode(model):
        for batch in tqdm(batches, desc="encoding", unit="batch", disable=not progress, leave=False):
            if "labels" not in batch:
                raise ValueError("`batches` must hold `labels` beside `pixel_values`: load the data with its labels.")
            output = model(to_pixel_values(batch["pixel_values"].to(model.device)))
            found = {"embeddings": output.embeddings, "anchors": output.anchors}
            if "latents" in kinds:
                found["latents"] = compute_latents(
                    output.anchors,
                    torch.zeros_like(output.anchors),
                    model.reference_anchors,
                    include_own=True,
                    solver=model.config.latent_solver,
                    num_steps=model.config.latent_num_steps,
                )
            for kind in kinds:
                rows[kind].append(found[kind].float().cpu())
            labels.append(batch["labels"].cpu())
    if not labels:
        raise ValueError("`batches` must hold at least one image, got none.")
    return {kind: torch.cat(parts) for kind, parts in rows.items()}, torch.cat(labels)


def require_encoder(model: LZNModel) -> None:
    """Raises a ValueError for a model that generates only."""
    if model.encoder is None:
        raise ValueError("`model` has no image encoder (config.encoder_type is None), so images have no features.")


# Linear probe --------------------------------------------------------------------------------------------------------


def linear_probe(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
    held_out_share: float = 0.1,
    max_selection_images: int = 10_000,
    seed: int = 0,
    progress: bool = False,
) -> float:
    """Top-1 accuracy of multinomial logistic regression on frozen features.

    Protocol: features are standardised by mean and standard deviation of the training features, without augmentation.
    Of the training images (of `max_selection_images` of them, drawn by `seed`, where there are more), `held_out_share`
    are held out, and the regression is fitted to the rest, with one weight decay after the other from the largest down,
    until the cross-entropy on the held-out images (which varies less than their accuracy) rises. The weight decay before
    that is the one with which it is fitted to all training images, and that is tested. As it multiplies the norm beside
    the *sum* of the losses, see [`logistic_regression`], it means the same for any number of images.

    60,000 x 512 features of 10 labels take about half a minute on one core.

    Args:
        train_features (`Tensor` of shape `(N, F)`): finite, floating point.
        train_labels (`Tensor` of shape `(N,)`): labels from 0 up, at least two different ones.
        test_features (`Tensor` of shape `(M, F)`): the same features of other images, on the same device.
        test_labels (`Tensor` of shape `(M,)`): their labels; one that no training image has always counts as an error.
        weight_decays: From which to choose, positive; a single one is taken as it is.
        held_out_share: In (0, 1).
        max_selection_images: See above.
        seed: Draws the images of the choice.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: if shapes, types or ranges do not fit, or there are too few images to hold any out.
        RuntimeError: as [`logistic_regression`].
    """
    from tqdm.auto import tqdm

    _check_sets(train_features, train_labels, test_features, test_labels)
    if not weight_decays or not all(decay > 0 for decay in weight_decays):
        raise ValueError(f"`weight_decays` must be one or more positive numbers, got {list(weight_decays)}.")
    if not 0 < held_out_share < 1:
        raise ValueError(f"`held_out_share` must be in (0, 1), got {held_out_share}.")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(train_labels), generator=generator)[:max_selection_images].to(train_labels.device)
    num_held_out = round(held_out_share * len(order))
    if len(weight_decays) > 1 and not 0 < num_held_out < len(order) - 1:
        raise ValueError(
            f"`held_out_share` {held_out_share} of {len(order)} training images leaves {num_held_out} to choose the "
            "weight decay on and the others to fit: give more images or a single weight decay."
        )

    mean, std = train_features.mean(0), nonzero_std(train_features)
    train_features, test_features = (train_features - mean) / std, (test_features - mean) / std
    num_labels = int(train_labels.max()) + 1
    bar = tqdm(desc="linear probe", unit="fit", disable=not progress, leave=False)
    best, start, smallest = weight_decays[0], None, float("inf")
    if len(weight_decays) > 1:
        held_out, rest = order[:num_held_out], order[num_held_out:]
        for decay in sorted(weight_decays, reverse=True):
            weight, bias = logistic_regression(
                train_features[rest], train_labels[rest], num_labels, decay, start=start, tolerance=1e-4
            )
            bar.update()
            logits = train_features[held_out].double() @ weight + bias
            loss = F.cross_entropy(logits, train_labels[held_out]).item()
            if loss >= smallest:
                break
            best, start, smallest = decay, (weight, bias), loss
    weight, bias = logistic_regression(train_features, train_labels, num_labels, best, start=start)
    bar.update()
    bar.close()
    predicted = (test_features.double() @ weight + bias).argmax(-1)
    return (predicted == test_labels).double().mean().item()


def logistic_regression(
    features: Tensor,
    labels: Tensor,
    num_labels: int,
    weight_decay: float,
    *,
    start: tuple[Tensor, Tensor] | None = None,
    tolerance: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """Weights W `(F, C)` and biases b `(C,)`, float64, with the smallest

        L(W, b) = 1/N (sum_n cross_entropy(x_n W + b, y_n) + weight_decay / 2 |W|²),

    which is scikit-learn's `LogisticRegression(C=1 / weight_decay)`: full-batch L-BFGS until no derivative is larger
    than `tolerance`.

    L-BFGS works on U, W = V diag(s) U, where V diag(c) V' = X'X / N and s = (c / C + weight_decay / N)^(-1/2): at W = 0
    all directions have the same curvature then (Böhning, 1992). The minimum is the same, and is reached in a fraction of
    the steps where features are correlated. Everything is float64: rounding to float32 would stop the line search early.

    Args:
        features (`Tensor` of shape `(N, F)`): best with mean 0 and standard deviation 1.
        labels (`Tensor` of shape `(N,)`): in `0..num_labels - 1`.
        num_labels (`int`): C.
        weight_decay (`float`): positive.
        start (`tuple` of W and b, *optional*): where to start; at 0 if not given.
        tolerance (`float`, *optional*, defaults to 1e-5): largest derivative of L by an element of W or b.

    Raises:
        RuntimeError: if the tolerance is not reached in 5000 evaluations of L.
    """
    decay, features = weight_decay / len(features), features.double()
    if start is None:
        start = features.new_zeros(features.shape[1], num_labels), features.new_zeros(num_labels)
    curvature, directions = torch.linalg.eigh(features.T @ features / len(features))
    scale = (curvature.clamp_min(0) / num_labels + decay).rsqrt()[:, None]
    inputs = (features @ (directions * scale.T)).T.contiguous()  # (F, N): a fifth faster than (N, F)
    u = (directions.T @ start[0] / scale).requires_grad_()
    bias = start[1].clone().requires_grad_()
    # No stopping rule of its own: those look at the derivative by U.
    optimizer = torch.optim.LBFGS(
        [u, bias],
        max_iter=20,
        max_eval=MAX_EVALUATIONS,
        history_size=20,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )
    evaluations = 0

    def loss() -> Tensor:
        nonlocal evaluations
        evaluations += 1
        optimizer.zero_grad()
        value = F.cross_entropy(inputs.T @ u + bias, labels) + decay / 2 * (scale * u).square().sum()
        value.backward()
        return value

    while evaluations < MAX_EVALUATIONS:
        optimizer.step(loss)
        loss()  # the last point of a line search need not be the one that was taken
        largest = max((directions @ (u.grad / scale)).abs().max().item(), bias.grad.abs().max().item())
        if largest <= tolerance:
            return directions @ (scale * u.detach()), bias.detach()
    raise RuntimeError(
        f"The logistic regression did not converge: after {evaluations} evaluations its largest derivative is {largest:.1e}, "
        f"above {tolerance:.1e}. Standardise the features, or use a larger weight decay than {weight_decay:g}."
    )


# Nearest neighbours --------------------------------------------------------------------------------------------------


@torch.no_grad()
def knn_accuracy(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    k: int = 20,
    *,
    temperature: float = 0.07,
    chunk_size: int = 256,
    progress: bool = False,
) -> float:
    """Top-1 accuracy of the vote of the k training images that are most similar to a test image,

        argmax_c sum_{i in the k nearest, y_i = c} exp(cos(x, x_i) / temperature)

    (Wu et al., arXiv 1805.01978). Nothing is fitted, so it needs no choice but k.

    Args:
        train_features (`Tensor` of shape `(N, F)`): finite, floating point. A row of zeros is as similar to any.
        train_labels (`Tensor` of shape `(N,)`): labels from 0 up, at least two different ones.
        test_features (`Tensor` of shape `(M, F)`): the same features of other images, on the same device.
        test_labels (`Tensor` of shape `(M,)`): their labels.
        k (`int`, *optional*, defaults to 20): from 1 to N.
        temperature (`float`, *optional*, defaults to 0.07): the smaller, the more the nearest count.
        chunk_size (`int`, *optional*, defaults to 256): test images at once. It does not change the result.
        progress (`bool`, *optional*, defaults to `False`): whether to show a progress bar.

    Raises:
        ValueError: if shapes, types or ranges do not fit.
    """
    from tqdm.auto import tqdm

    _check_sets(train_features, train_labels, test_features, test_labels)
    if not 1 <= k <= len(train_features):
        raise ValueError(f"`k` must be in 1..{len(train_features)}, the number of training images, got {k}.")
    if temperature <= 0:
        raise ValueError(f"`temperature` must be positive, got {temperature}.")
    if chunk_size < 1:
        raise ValueError(f"`chunk_size` must be at least 1, got {chunk_size}.")
    train_features, num_labels, correct = F.normalize(train_features, dim=1), int(train_labels.max()) + 1, 0
    chunks = zip(test_features.split(chunk_size), test_labels.split(chunk_size), strict=True)
    total = -(-len(test_labels) // chunk_size)
    for x, y in tqdm(chunks, total=total, desc="neighbours", unit="chunk", disable=not progress, leave=False):
        similarity, nearest = (F.normalize(x, dim=1) @ train_features.T).topk(k)
        # Relative to the nearest, which changes no vote: exp(1 / temperature) may be too large a number.
        votes = ((similarity - similarity[:, :1]) / temperature).exp()
        scores = votes.new_zeros(len(x), num_labels).scatter_add_(1, train_labels[nearest], votes)
        correct += (scores.argmax(1) == y).sum().item()
    return correct / len(test_labels)


def _check_sets(train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor) -> None:
    for name, features, labels in (("train", train_features, train_labels), ("test", test_features, test_labels)):
        if features.ndim != 2 or not features.is_floating_point() or features.numel() == 0:
            raise ValueError(
                f"`{name}_features` must be floating point (images, features) and not empty, got {features.dtype} of "
                f"shape {tuple(features.shape)}."
            )
        if not torch.isfinite(features).all():
            raise ValueError(f"`{name}_features` must be finite, got NaN or infinite values.")
        if labels.dtype != torch.int64 or labels.shape != (len(features),):
            raise ValueError(
                f"`{name}_labels` must be int64 of shape ({len(features)},), got {labels.dtype} of shape "
                f"{tuple(labels.shape)}."
            )
        if labels.min() < 0:
            raise ValueError(f"`{name}_labels` must be at least 0, got {labels.min().item()}.")
    if train_features.shape[1] != test_features.shape[1]:
        raise ValueError(
            f"`test_features` must have the {train_features.shape[1]} features of `train_features`, got "
            f"{test_features.shape[1]}."
        )
    if len(train_labels.unique()) < 2:
        raise ValueError("`train_labels` must hold at least two different labels, got one.")


def nonzero_std(features: Tensor) -> Tensor:
    """Standard deviations `(F,)` of `(N, F)`; 1 for a feature that is constant up to rounding."""
    std = features.std(0)
    return torch.where(std > 1e-6 * features.abs().amax(0), std, 1.0)


__all__ = [
    "FEATURE_KINDS",
    "WEIGHT_DECAYS",
    "collect_all_features",
    "collect_features",
    "knn_accuracy",
    "linear_probe",
    "logistic_regression",
    "nonzero_std",
    "require_encoder",
]

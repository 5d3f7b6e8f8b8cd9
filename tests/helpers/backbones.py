# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Small image models of transformers, and encoders of them, for the tests of `networks_backbone`."""

import torch

from lzn_hf.networks_backbone import BackboneEncoder


TRANSFORMER = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4}
VIT = TRANSFORMER | {"intermediate_size": 64}
HIERARCHY = {"embed_dim": 32, "depths": [1, 1]}
BACKBONES = {
    "resnet": {"embedding_size": 32, "hidden_sizes": [32, 64], "depths": [1, 1], "freeze_batch_norm": False},
    "convnext": {"hidden_sizes": [32, 64], "depths": [1, 1], "num_stages": 2},
    "vit": VIT,
    "dinov2": TRANSFORMER | {"mlp_ratio": 2},
    "swin": HIERARCHY | {"num_heads": [1, 2], "window_size": 4, "patch_size": 2},
    "mobilenet_v2": {"depth_multiplier": 0.125, "min_depth": 8, "freeze_batch_norm": False},
    "efficientnet": {
        "width_coefficient": 0.25,
        "depth_coefficient": 0.1,
        "hidden_dim": 320,
        "drop_connect_rate": 0.0,
        "freeze_batch_norm": False,
    },
    "beit": VIT | {"use_mask_token": True, "use_relative_position_bias": True},
    "hiera": {"embed_dim": 32, "num_heads": [1, 2, 4, 8], "depths": [1, 1, 1, 1]},
    "ijepa": VIT,
    "poolformer": {"hidden_sizes": [32, 32, 32, 64], "depths": [1, 1, 1, 1]},
}
IMAGE_SIZES = {"efficientnet": 64, "hiera": 64, "mobilenet_v2": 32, "poolformer": 32}
# What a model is asked for, by its documentation in transformers; all others: the pooled output.
POOLED = {
    "vit": lambda output: output.last_hidden_state[:, 0],
    "ijepa": lambda output: output.last_hidden_state.mean(1),
    "poolformer": lambda output: output.last_hidden_state.mean((2, 3)),
}
MEAN, STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]


def backbone_of(model_type: str, **changes) -> dict:
    return {"model_type": model_type, **BACKBONES[model_type], **changes}


def make_encoder(model_type: str, *, image_size: int | None = None, **changes) -> BackboneEncoder:
    torch.manual_seed(0)
    return BackboneEncoder(
        backbone=backbone_of(model_type, **changes),
        image_size=image_size or IMAGE_SIZES.get(model_type, 16),
        in_channels=3,
        latent_dim=64,
        head_layers=2,
    )


def random_images(size: int = 16, channels: int = 3, batch: int = 4) -> torch.Tensor:
    return torch.rand(batch, channels, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1

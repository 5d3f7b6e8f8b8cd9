# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""examples/make_editing_pictures.py on a tiny saved pipeline."""

from __future__ import annotations

import make_editing_pictures
import numpy as np
import pytest
from helpers.pipelines import make_pipeline, seeded
from helpers.training import write_image_folder
from PIL import Image


@pytest.mark.parametrize("with_latents", [True, False])
def test_pictures_of_a_saved_folder(with_latents, tmp_path):
    options = {} if with_latents else {"names": [], "num_reference_anchors": 0, "encoder_type": None}
    pipe = make_pipeline(**{"names": ["cat", "dog", "eel"], **options})
    pipe.save_pretrained(tmp_path / "model")
    images = write_image_folder(tmp_path / "images")
    flags = {"model_name_or_path": tmp_path / "model", "data_dir": images, "output_dir": tmp_path / "pictures"}
    flags |= {"num_images": 4, "num_steps": 3, "num_inference_steps": 2}
    arguments = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    files = make_editing_pictures.main(arguments)
    names = {"editing_reconstruct.png", "editing_interpolate.png", "editing_vary_noise.png", "editing_trajectory.png"}
    names |= {"editing_vary_latent.png"} if with_latents else set()
    assert {path.name for path in files} == {path.name for path in (tmp_path / "pictures").iterdir()} == names

    # The first row of every variation: the held-out image itself, and after it what `reconstruct` makes of it.
    chosen = [(images / "test" / label).glob("*.png") for label in ("cat", "dog", "eel")]
    known = [[np.asarray(Image.open(path)) for path in paths] for paths in chosen]
    picture = np.asarray(Image.open(tmp_path / "pictures" / "editing_vary_noise.png"))
    top = picture.shape[0] - 4 * 50
    cells = [picture[top + 50 * row :][:48, 2:50][::6, ::6] for row in range(4)]
    for cell, same_label in zip(cells, [*known, known[0]], strict=True):  # one of each label, and then again
        assert any((cell == image).all() for image in same_label)
    rebuilt = pipe.reconstruct(cells[0], num_inference_steps=2, generator=seeded()).images[0]
    shown = picture[top:][:48, 52:100][::6, ::6]
    assert np.abs(shown.astype(int) - np.asarray(rebuilt)).max() <= 1


def test_pictures_need_as_many_images(tmp_path):
    make_pipeline(names=["cat", "dog", "eel"]).save_pretrained(tmp_path / "model")
    flags = ["--data_dir", str(write_image_folder(tmp_path / "images")), "--output_dir", str(tmp_path / "pictures")]
    with pytest.raises(ValueError, match="`num_images` is 20, but there are only 9 images"):
        make_editing_pictures.main(["--model_name_or_path", str(tmp_path / "model"), "--num_images", "20", *flags])
    assert not (tmp_path / "pictures").exists()

# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""examples/make_text_pictures.py on a tiny saved pipeline with texts."""

from __future__ import annotations

import json

import make_text_pictures
import numpy as np
from helpers.pipelines import seeded
from helpers.texts import make_text_pipeline
from helpers.training import write_image_folder
from PIL import Image


def test_pictures_of_a_saved_folder(tmp_path):
    pipe = make_text_pipeline(decoder_data_type="text")
    pipe.save_pretrained(tmp_path / "model")
    images = write_image_folder(tmp_path / "images")
    names = {"cat": ["boot"], "dog": ["bag"], "eel": ["dress"]}
    captions = {"templates": ["a {}"], "held_out_templates": ["a photo of a {}"], "names": names}
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    flags = f"--model_name_or_path {tmp_path / 'model'} --data_dir {images} --captions {tmp_path / 'captions.json'} --columns 2"
    folder = make_text_pictures.main([*flags.split(), "--output_dir", str(tmp_path / "pictures")])
    assert {path.name for path in folder.iterdir()} == {"text_prompts.png", "text_zones.png"}

    # The rows are the images of the held-out captions, enlarged.
    prompts = [f"a photo of a {name}" for name in ("boot", "bag", "dress")]
    expected = pipe(prompt=prompts, num_images_per_prompt=2, generator=seeded()).images
    picture = np.asarray(Image.open(folder / "text_prompts.png").convert("L"))
    cells = [
        picture[:, -68:][34 * row + 2 :, 34 * column :][:32, :32][::4, ::4] for row in range(3) for column in (0, 1)
    ]
    assert all(
        np.abs(cell.astype(int) - np.asarray(image)).max() <= 1 for cell, image in zip(cells, expected, strict=True)
    )
    assert min(Image.open(folder / "text_zones.png").size) > 500

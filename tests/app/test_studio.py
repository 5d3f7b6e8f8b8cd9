# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""What the controls of the page do is what the pipeline does, within the limits of the page."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from helpers.pipelines import NAMES, make_pipeline, seeded
from helpers.texts import make_text_pipeline
from PIL import Image

from lzn_hf import LZNPipeline
from lzn_hf.app.studio import NUM_PLACES, Studio
from lzn_hf.images_lzn import ImageError


pytest.importorskip("scipy", reason="scipy is not installed")


def make_images(root, count=7):
    """A folder of grey pictures in two classes, each of its own shade."""
    for i in range(count):
        folder = root / NAMES[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline()


@pytest.fixture(scope="module")
def images_dir(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def studio(pipe, images_dir):
    return Studio(pipe, images_dir, max_images=9, max_steps=12)


@pytest.fixture(scope="module")
def picture():
    return Image.fromarray(np.random.default_rng(5).integers(0, 256, (8, 8), dtype=np.uint8))


def same(images, others) -> bool:
    """Whether pictures are equal but for the rounding of larger batches: one of 255 levels."""
    pairs = zip(images, others, strict=True)
    return all(np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1 for one, other in pairs)


@pytest.mark.parametrize("label", ["seven", None])
def test_pictures_are_those_of_the_pipeline(studio, pipe, label):
    """Picture i is that of seed + i, however many are asked for."""
    made = studio.generate(label, "", 3, 4, 5)
    assert same(made.images[1:2], pipe(label=label, num_inference_steps=5, generator=[seeded(5)]).images)
    assert same(studio.generate(label, None, 2, 5, 5).images, made.images[1:])
    assert made.captions == ["seed 4", "seed 5", "seed 6"]
    assert (
        len(made.steps) == len(made.times) == 6 and made.times[0] == pytest.approx(0, abs=1e-5) and made.times[-1] == 1
    )
    assert same(made.steps[-1:], made.images[:1]) and not same(made.steps[:1], made.images[:1])


def test_pictures_of_prompts():
    pipe = make_text_pipeline()
    studio = Studio(pipe)
    assert studio.takes_prompts and studio.compares_texts and studio.zone_map is None and not studio.classifies
    assert not Studio(LZNPipeline.from_model(pipe.model)).compares_texts  # without tokenizer
    made = studio.generate(None, " a small boot ", 2, 3, 5)
    assert same(made.images[:1], pipe(prompt="a small boot", num_inference_steps=5, generator=[seeded(3)]).images)
    assert not same(made.images, studio.generate(None, "a photo of a dress", 2, 3, 5).images)


def test_texts_of_a_picture(picture):
    """The captions of the pipeline; empty lines and lines that come again do not count."""
    pipe = make_text_pipeline()
    studio = Studio(pipe)
    found = studio.compare_texts(picture, " a boot\n\nthe big bag\na boot\n")
    assert found == {one["text"]: one["score"] for one in pipe.caption(picture, ["a boot", "the big bag"])[0]}
    assert list(found.values()) == sorted(found.values(), reverse=True) and sum(found.values()) == pytest.approx(1)
    for texts, count in (("a boot\na boot", 1), ("", 0), ("\n".join(f"a boot {i}" for i in range(101)), 101)):
        with pytest.raises(ValueError, match=rf"Enter from 2 to 100 different texts, one a line, got {count}\."):
            studio.compare_texts(picture, texts)
    with pytest.raises(ValueError, match="words that the tokenizer knows, got .xyz."):
        studio.compare_texts(picture, "a boot\nxyz")


def test_guidance_reaches_the_pipeline():
    pipe = make_pipeline(condition_dropout=0.1)
    studio = Studio(pipe)
    assert studio.takes_guidance and not Studio(make_pipeline()).takes_guidance
    guided = studio.generate("one", None, 1, 0, 5, 3.0).images
    assert same(guided, pipe(label="one", num_inference_steps=5, generator=[seeded(0)], guidance_scale=3.0).images)
    assert not same(guided, studio.generate("one", None, 1, 0, 5).images)


def test_a_place_of_the_map_gives_the_picture_of_its_latent(studio, pipe):
    """The picture of exactly the latent that the map says: a prior sample of its wheel."""
    made = studio.visit([[0.4, 0.3]], 5, 11, 6)
    row = np.hypot(*(studio.zone_map.wheel.prior_points - (0.4, 0.3)).T).argmin()
    latent = studio.zone_map.wheel.prior[row : row + 1]
    (expected,) = pipe(latents=latent, num_inference_steps=6, generator=seeded(11)).images
    assert np.array_equal(made.images[0], expected) and len(made.images) == 1
    assert made.captions == [NAMES[studio.zone_map.wheel.prior_zones[row]]]
    assert made.places == [tuple(studio.zone_map.wheel.prior_points[row])]


def test_a_path_of_the_map_gives_the_pictures_along_it(studio, pipe):
    """All from the same noise, so that they differ by their latents alone."""
    path = [[-0.5, 0.0], [0.5, 0.1]]
    made = studio.visit(path, 5, 2, 6)
    latents, places = studio.zone_map.latents_along(path, 5)
    alone = [pipe(latents=latent[None], num_inference_steps=6, generator=seeded(2)).images[0] for latent in latents]
    assert same(made.images, alone) and np.allclose(made.places, places)


def test_a_picture_is_seen_as_the_model_sees_it(studio, pipe, tmp_path):
    large = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    large.save(tmp_path / "large.png")
    seen = studio.open_picture(tmp_path / "large.png")
    assert seen.size == (8, 8) and seen.mode == "L"
    assert pipe.classify(seen) == pipe.classify(large)  # nothing is lost that the model would use


@pytest.mark.parametrize("content", [b"", b"no image at all", None], ids=["empty", "text", "truncated"])
def test_a_damaged_upload_is_a_sentence(studio, tmp_path, content):
    path = tmp_path / "upload.png"
    if content is None:
        Image.new("L", (64, 64), 7).save(path)
        content = path.read_bytes()[:60]
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"^upload.png cannot be read: [^\n]+$"):  # not where it lies on the server
        studio.open_picture(path)


def test_random_pictures_are_of_the_folder_or_of_the_model(studio, pipe):
    known = [studio._folder_picture(row) for row in studio.reference_rows]
    drawn = [studio.random_picture(seed) for seed in range(12)]
    assert all(any(same([one], [other]) for other in known) for one in drawn)
    assert len({one.tobytes() for one in drawn}) > 3
    alone = Studio(pipe)
    assert same([alone.random_picture(3)], [alone.random_picture(3)])
    assert not same([alone.random_picture(3)], [alone.random_picture(4)])


def test_probabilities_are_those_of_the_pipeline(studio, pipe, picture):
    scores = studio.classify(picture)
    assert scores == {one["label"]: one["score"] for one in pipe.classify(picture, top_k=10)[0]}
    assert sum(scores.values()) == pytest.approx(1, abs=1e-4)


def test_places_of_a_picture_are_those_of_its_latents(studio, pipe, picture):
    drawn, middle = studio.places(picture)
    with torch.no_grad():
        pixels = pipe.image_processor([picture], return_tensors="pt")["pixel_values"]
        latent = pipe.model.get_image_latents(pixels, noise=torch.zeros(1, 6))
    np.testing.assert_allclose(middle, studio.zone_map.wheel.place(latent)[0][0], atol=1e-6)
    assert len(drawn) == NUM_PLACES and len(set(drawn)) > NUM_PLACES / 2


def test_neighbours_are_nearest_by_cosine(studio, pipe, images_dir):
    """A picture of the folder is its own nearest neighbour; the others against numbers computed one by one."""
    known = [studio._folder_picture(row) for row in studio.reference_rows]
    made = studio.neighbours(known[2], 7)
    (name,) = {file.parent.name for file in images_dir.rglob("*.png") if same([Image.open(file)], [known[2]])}
    assert same(made.images[:1], [known[2]]) and made.captions[0] == f"{name} · 1.000"
    embeddings = torch.stack([pipe.embed(one)[0] for one in known])
    cosines = torch.cosine_similarity(embeddings, embeddings[2:3]).tolist()
    order = sorted(range(7), key=lambda i: -cosines[i])
    assert same(made.images, [known[i] for i in order])
    values = [float(caption.split(" · ")[1]) for caption in made.captions]
    np.testing.assert_allclose(values, [cosines[i] for i in order], atol=1e-3)


def test_neighbours_of_a_folder_without_labels_and_of_a_part(pipe, tmp_path, picture):
    for i, file in enumerate(sorted(make_images(tmp_path / "labelled").rglob("*.png"))):
        (tmp_path / "flat").mkdir(exist_ok=True)
        file.rename(tmp_path / "flat" / f"{i}.png")
    studio = Studio(pipe, tmp_path / "flat", max_reference_images=3)
    made = studio.neighbours(picture, 8)
    assert len(made.images) == 3 and studio.reference_rows == [0, 3, 6] and "·" not in made.captions[0]


def test_without_a_folder_the_page_says_how_to_give_one(pipe, picture):
    with pytest.raises(ValueError, match="--images"):
        Studio(pipe).neighbours(picture, 3)


def test_editing_is_that_of_the_pipeline(studio, pipe, picture):
    other = Image.fromarray(255 - np.asarray(picture))
    made = studio.reconstruct(picture, 3, 8)
    back = pipe.reconstruct(picture, num_inference_steps=8, generator=seeded(3)).images
    assert same(made.images, [picture, *back])
    error = np.sqrt(np.mean((np.asarray(picture, float) - np.asarray(back[0], float)) ** 2)) / 255
    assert made.captions[1] == f"back again, {100 * error:.2g} % off"
    for keep in ("latent", "noise"):
        expected = pipe.vary(picture, 0.6, keep, 2, num_inference_steps=4, generator=seeded(1)).images
        assert same(studio.vary(picture, 0.6, keep, 2, 1, 4).images, expected)
    expected = pipe.interpolate(picture, other, 3, num_inference_steps=4, generator=seeded(1)).images
    assert same(studio.interpolate(picture, other, 3, 1, 4).images, expected)


@pytest.mark.parametrize(
    ("options", "can"),
    [
        ({}, {"classifies", "edits", "embeds", "zone_map"}),
        ({"names": []}, {"edits", "embeds"}),
        ({"names": ["a"]}, {"classifies", "edits", "embeds"}),
        ({"num_reference_anchors": 0}, {"embeds", "zone_map"}),
        ({"names": [], "encoder_type": None, "num_reference_anchors": 0}, {"edits"}),
        ({"encoder_type": None, "num_reference_anchors": 0}, {"needs_label"}),
    ],
    ids=["all", "no labels", "one label", "no references", "plain flow", "flow of labels"],
)
def test_the_page_knows_what_a_model_can_do(options, can, picture):
    """And what it says that a model can do works."""
    studio = Studio(make_pipeline(**options))
    names = ["classifies", "edits", "embeds", "needs_label", "takes_prompts", "takes_guidance", "zone_map"]
    assert {name for name in names if getattr(studio, name)} == can
    label = studio.labels[0] if studio.needs_label else None
    assert len(studio.generate(label, None, 2, 0, 3).images) == 2
    assert studio.random_picture(0).size == (8, 8)
    if "edits" in can:
        assert len(studio.reconstruct(picture, 0, 3).images) == 2
        assert len(studio.vary(picture, 0.5, "latent", 2, 0, 3).images) == 2
    if "classifies" in can:
        assert len(studio.classify(picture)) == len(studio.labels)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda studio, image: studio.generate(None, None, 10, 0, 3), "number must be from 1 to 9, got 10"),
        (lambda studio, image: studio.generate(None, None, 1, 0, 13), "steps must be from 1 to 12, got 13"),
        (lambda studio, image: studio.generate(None, None, 1, None, 3), "seed must be a whole number, got None"),
        (lambda studio, image: studio.generate(None, None, 1, 0.5, 3), "seed must be a whole number"),
        (lambda studio, image: studio.generate(None, None, 1, -1, 3), "seed must be from 0"),
        (lambda studio, image: studio.generate(None, None, 1, float("inf"), 3), "seed must be a whole number"),
        (lambda studio, image: studio.generate("one", "a boot", 1, 0, 3), "either a label or a prompt"),
        (lambda studio, image: studio.generate("ten", None, 1, 0, 3), "'ten' is unknown"),
        (lambda studio, image: studio.visit([[0, 0], [1, 1]], 10, 0, 3), "number of pictures must be from 2 to 9"),
        (lambda studio, image: studio.vary(image, 2, "latent", 1, 0, 3), "`strength` must be a number from 0 to 1"),
        (lambda studio, image: studio.interpolate(image, None, 3, 0, 3), "Choose the other picture"),
        (lambda studio, image: studio.neighbours(image, 0), "number must be from 1 to 9, got 0"),
    ],
)
def test_what_a_user_may_not_ask_for(studio, picture, call, message):
    with pytest.raises(ValueError, match=message):
        call(studio, picture)


def test_users_at_the_same_time_get_their_own_pictures(studio, picture):
    calls = [
        lambda: studio.generate("one", None, 2, 1, 6).images,
        lambda: studio.generate("two", None, 3, 9, 4).images,
        lambda: studio.visit([[0.1, 0.2]], 4, 3, 6).images,
        lambda: studio.vary(picture, 0.5, "noise", 2, 7, 4).images,
        lambda: studio.neighbours(picture, 4).images,
    ]
    expected = [call() for call in calls]
    with ThreadPoolExecutor(4) as threads:
        futures = [(i, threads.submit(calls[i])) for _ in range(3) for i in range(len(calls))]
    for i, future in futures:
        assert same(future.result(), expected[i]), i

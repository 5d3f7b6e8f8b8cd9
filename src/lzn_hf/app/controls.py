# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The controls of the page: tabs with what a model can do, each wired to a function of the studio."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from html import escape
from pathlib import Path
from random import randrange
from typing import Any

import gradio as gr
from PIL import Image

from .pictures import draw_map, enlarge, evenly, strip
from .studio import MAX_SEED, Made, Studio
from .zone_map import ZoneMap


HERE = Path(__file__).parent
NUM_STEPS_SHOWN = 8  # of the way from noise to a picture
CLEAN_SECONDS, KEEP_SECONDS = 600, 3600  # how often files of users are deleted, and at what age
ANY = "any"  # the choice of no label
PLACE = "Draws the place of a picture in its own zone."  # what the seed is for
MAP_HELP = (
    "Every place is a latent: a click takes the nearest of {count:,} draws of the prior (not a point of a plane, as the zones have more "
    "dimensions than a screen) and generates the picture of exactly this latent. Wedges are as wide as their zones are probable."
)
PATH_HELP = (
    "Drag to draw a path: it becomes an interpolation through the latents along it, and the dashed line says where its latents really "
    "lie. With the keyboard: arrows move the cross, Enter generates, Space adds a corner of a path, Escape drops it."
)


def _answering(function: Callable) -> Callable:
    """Makes of a `ValueError`, which says what was wrong with the input of a user, a message on the page. Other errors are bugs."""

    @wraps(function)
    def answer(*arguments):
        try:
            return function(*arguments)
        except ValueError as error:
            raise gr.Error(
                escape(str(error), quote=False), title="That did not work", print_exception=False
            ) from error

    return answer


class Controls:
    """The controls of a page and what they call.

    Args:
        studio ([`Studio`]): what they call.
        name (`str`): the name of the model.
    """

    def __init__(self, studio: Studio, name: str):
        self.studio = studio
        self.default_steps = min(20, studio.max_steps)
        title = f"{name} · Latent Zoning Network"
        self.blocks = gr.Blocks(title=title, analytics_enabled=False, delete_cache=(CLEAN_SECONDS, KEEP_SECONDS))
        with self.blocks, gr.Column(elem_classes="lzn-page"):
            gr.HTML(self._head(name), elem_classes="lzn-head")
            # The picture of the user, which other tabs fill, too. What shows it is placed later.
            self.picture = gr.State()
            self.seen = gr.Image(
                label="As the model sees it", interactive=False, render=False, buttons=["download"], height=220
            )
            with gr.Tabs() as self.tabs:
                if studio.zone_map is not None:
                    with gr.Tab("Map", id="map"):
                        self._map_tab(studio.zone_map)
                with gr.Tab("Generate", id="generate"):
                    self._generate_tab()
                if studio.embeds or studio.edits:
                    with gr.Tab("Your picture", id="picture"):
                        self._picture_tab()

    def _head(self, name: str) -> str:
        config, labels = self.studio.config, self.studio.labels
        kind = {1: "grey", 3: "colour", 4: "transparent"}[config.num_channels]
        facts = [f"{config.image_size} × {config.image_size} {kind} pictures"]
        if labels:
            facts.append(f"{len(labels)} labels" if len(labels) > 1 else "1 label")
        if self.studio.takes_prompts:
            facts.append("prompts")
        if self.studio.embeds:
            facts.append(f"latents of {config.latent_dim} numbers")
        return f"<h1>{escape(name)}</h1><p>A Latent Zoning Network: {', '.join(facts)}.</p>"

    # Controls that several tabs have.

    def _seed(self, info: str) -> gr.Number:
        return gr.Number(0, label="Seed", info=info, precision=0, minimum=0, maximum=MAX_SEED)

    def _steps(self) -> gr.Slider:
        return gr.Slider(
            1, self.studio.max_steps, self.default_steps, step=1, label="Steps", info="More are more exact."
        )

    def _number(self, label: str, value: int, minimum: int = 1) -> gr.Slider:
        most = max(self.studio.max_images, minimum)
        return gr.Slider(minimum, most, min(value, most), step=1, label=label)

    def _gallery(self, label: str) -> gr.Gallery:
        return gr.Gallery(
            label=label, show_label=False, columns=4, object_fit="contain", height="auto", format="png", buttons=["download"]
        )  # fmt: skip

    def _use_button(self, made: gr.State) -> None:
        """A button that takes the first or the selected one of the pictures in `made` to the tab of a user's picture."""
        if self.studio.embeds or self.studio.edits:
            use = gr.Button("Use it as your picture", size="sm")
            use.click(
                self._use, made, [self.picture, self.seen, self.tabs], show_progress="hidden", api_visibility="private"
            )

    def _use(self, chosen: Image.Image | None):
        if chosen is None:
            raise gr.Error("There is no picture yet.", title="That did not work", print_exception=False)
        return chosen, enlarge(chosen), gr.Tabs(selected="picture")

    # The map.

    def _map_tab(self, zone_map: ZoneMap) -> None:
        chosen = gr.State()
        with gr.Row():
            with gr.Column(scale=5, min_width=300):
                label = "Map of the latent zones. Arrow keys move the cross, Enter generates, Space adds a corner of a path."
                zones = gr.HTML(
                    {"asked": [], "places": []},
                    elem_id="zone-map",
                    html_template=f'<div class="lzn-map" role="application" tabindex="0" aria-label="{label}">'
                    f"{draw_map(zone_map)}</div>"
                    '<button type="button" class="lzn-draw" aria-pressed="false">Draw by finger</button>',
                    js_on_load=(HERE / "zone_map.js").read_text(encoding="utf-8"),
                )
            with gr.Column(scale=4, min_width=280):
                shown = gr.HTML('<p class="lzn-empty">Click on the map</p>', elem_id="map-pictures")
                self._use_button(chosen)
                seed = self._seed("Draws the noise, which decides what the latent leaves open.")
                with gr.Accordion("More settings", open=False):
                    frames = self._number("Pictures along a path", 8, minimum=2)
                    steps = self._steps()
        known = MAP_HELP.format(count=len(zone_map.wheel.prior))
        gr.Markdown(f"{known}\n\n{PATH_HELP}", elem_classes="lzn-note")

        def show(points, number, seed, steps):
            made = self.studio.visit(points, number, seed, steps)
            captions = [f"zone of {zone}" for zone in made.captions]
            return {"asked": points, "places": made.places}, strip(made.images, captions, "Latent"), made.images[0]

        @_answering
        def visit(number, seed, steps, event: gr.EventData):
            return show(event.points, number, seed, steps)

        @_answering
        def visit_again(zones, number, seed, steps):
            return show(zones["asked"], number, seed, steps) if zones["asked"] else (gr.skip(),) * 3

        settings, outputs = [frames, seed, steps], [zones, shown, chosen]
        zones.submit(visit, settings, outputs, show_progress_on=shown, api_visibility="private")
        gr.on(
            [seed.change, frames.change, steps.change], visit_again, [zones, *settings], outputs,
            show_progress_on=shown, trigger_mode="always_last", api_visibility="private",
        )  # fmt: skip

    # Pictures of labels and prompts.

    def _generate_tab(self) -> None:
        studio, images, chosen = self.studio, gr.State([]), gr.State()
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                choices = studio.labels if studio.needs_label else [ANY, *studio.labels]
                label = gr.Dropdown(choices, value=choices[0], label="Label", visible=bool(studio.labels))
                prompt = gr.Textbox(
                    label="Prompt", visible=studio.takes_prompts, placeholder="What is to be seen; empty: anything"
                )
                number = self._number("Pictures", 8)
                seed = self._seed("Of the first picture; the next one has the next seed.")
                steps = self._steps()
                guidance = gr.Slider(
                    0, 5, 1, step=0.1, label="Guidance", info="1 is none.", visible=studio.takes_guidance
                )
                run = gr.Button("Generate", variant="primary")
                another = gr.Button("Generate with another seed", size="sm")
            with gr.Column(scale=3, min_width=300):
                gallery = self._gallery("Pictures")
                self._use_button(chosen)
                way = gr.HTML(elem_id="way")

        @_answering
        def generate(label, prompt, number, seed, steps, guidance):
            made = studio.generate(None if label == ANY else label, prompt, number, seed, steps, guidance)
            shown = range(len(made.steps))
            some = evenly(shown, NUM_STEPS_SHOWN)
            way = strip(
                [made.steps[i] for i in some],
                [f"t = {made.times[i]:.2f}" for i in some],
                "On the way",
                NUM_STEPS_SHOWN,
            )
            note = "<p>The first picture on its way from noise (t = 0):</p>"
            return _gallery(made), note + way, made.images, made.images[0]

        def choose(images, event: gr.SelectData):
            return images[event.index]

        given = [label, prompt, number, seed, steps, guidance]
        gr.on(
            [run.click, prompt.submit, seed.submit],
            generate,
            given,
            [gallery, way, images, chosen],
            api_name="generate",
        )
        another.click(lambda: randrange(MAX_SEED), None, seed, show_progress="hidden", api_visibility="private").then(
            generate, given, [gallery, way, images, chosen], api_visibility="private"
        )
        gallery.select(choose, images, chosen, show_progress="hidden", api_visibility="private")

    # A picture of a user, and what the model makes of it.

    def _picture_tab(self) -> None:
        studio = self.studio
        with gr.Row():
            with gr.Column(scale=2, min_width=260):
                upload, random = self._source()
                self.seen.render()
            with gr.Column(scale=3, min_width=300), gr.Tabs():
                filled = []
                if studio.classifies:
                    with gr.Tab("Classify"):
                        filled = self._classify_tab()
                if studio.compares_texts:
                    with gr.Tab("Texts"):
                        self._texts_tab()
                if studio.embeds:
                    with gr.Tab("Similar"):
                        self._similar_tab()
                if studio.edits:
                    with gr.Tab("Reconstruct"):
                        self._reconstruct_tab()
                    with gr.Tab("Vary"):
                        self._vary_tab()
                    with gr.Tab("Interpolate"):
                        self._interpolate_tab()
        self._take(upload, random, self.picture, self.seen)
        if filled:
            self.picture.change(
                self._classified, self.picture, filled, show_progress_on=filled[0], api_visibility="private"
            )  # fmt: skip

    def _source(self) -> tuple[gr.File, gr.Button]:
        """Where a picture comes from. Not `gr.Image`, which would open a damaged file before we can say what is wrong with it."""
        upload = gr.File(label="A picture", file_types=["image"], type="filepath", height=120)
        from_folder = self.studio.folder is not None
        return upload, gr.Button("Take one of the folder" if from_folder else "Let the model make one", size="sm")

    def _take(self, upload: gr.File, random: gr.Button, picture: gr.State, seen: gr.Image) -> None:
        """Wires a source to a picture and what shows it."""

        @_answering
        def opened(path):
            image = self.studio.open_picture(path)
            return image, enlarge(image)

        @_answering
        def drawn():
            image = self.studio.random_picture(randrange(MAX_SEED))
            return image, enlarge(image)

        given = upload.upload(opened, upload, [picture, seen], api_visibility="private")
        # Makes room for the next file, after a message, too.
        given.then(lambda: None, None, upload, show_progress="hidden", api_visibility="private")
        random.click(drawn, None, [picture, seen], api_visibility="private")

    def _classify_tab(self) -> list[Any]:
        probabilities = gr.Label(label="Probability of each zone", num_top_classes=5)
        place = gr.HTML(elem_id="place")
        time = self.studio.config.prediction_time
        calibrated = (
            "This model was not calibrated: its probabilities are more certain than it is right."
            if time is None
            else f"Calibrated on held-out images: the zones are read at time {time:.2f} of the flow, not at its end."
        )
        gr.Markdown(calibrated, elem_classes="lzn-note")
        return [probabilities, place]

    def _classified(self, picture: Image.Image | None):
        if picture is None:
            return None, ""
        scores = self.studio.classify(picture)
        if self.studio.zone_map is None:
            return scores, ""
        dots, middle = self.studio.places(picture)
        title = "Map of the latent zones with the place of your picture"
        note = "<p>Dots: latents of your picture, drawn from its own zone. Ring: the middle of this zone.</p>"
        return scores, draw_map(self.studio.zone_map, dots, middle, title) + note

    def _texts_tab(self) -> None:
        texts = gr.Textbox(label="Texts", info="One a line. Which fits best?", lines=4, max_lines=12)
        run = gr.Button("Compare", variant="primary")
        probabilities = gr.Label(label="Probability of each text", num_top_classes=10)
        self._answer_with(probabilities, run, self.studio.compare_texts, [texts], dict)

    def _similar_tab(self) -> None:
        if self.studio.folder is None:
            gr.Markdown(
                "Similar pictures are looked for in a folder of images, and this page was started without one: "
                "`lzn app MODEL --images FOLDER`.",
                elem_classes="lzn-note",
            )
            return
        number = self._number("Pictures", 8)
        run = gr.Button("Find similar pictures", variant="primary")
        gallery = self._gallery("Similar pictures")
        known = f"Among {len(self.studio.reference_rows):,} pictures of the folder, by the cosine of their embeddings."
        gr.Markdown(known, elem_classes="lzn-note")
        self._answer_with(gallery, run, self.studio.neighbours, [number], _gallery)

    def _reconstruct_tab(self) -> None:
        seed, steps = self._seed(PLACE), self._steps()
        run = gr.Button("Reconstruct", variant="primary")
        shown = gr.HTML()
        gr.Markdown("To its latent and noise, and back.", elem_classes="lzn-note")
        self._answer_with(shown, run, self.studio.reconstruct, [seed, steps], _strip_of("Picture"))

    def _vary_tab(self) -> None:
        strength = gr.Slider(0, 1, 0.5, step=0.05, label="Strength", info="0 is the picture itself.")
        choices = [("the latent: what it is of", "latent"), ("the noise: how it is drawn", "noise")]
        keep = gr.Radio(
            choices, value="latent", label="Keep", visible=self.studio.embeds
        )  # without latents only noise varies
        number, seed, steps = self._number("Pictures", 8), self._seed(PLACE), self._steps()
        run = gr.Button("Vary", variant="primary")
        gallery = self._gallery("Variations")
        given = [strength, keep, number, seed, steps]
        self._answer_with(gallery, run, self.studio.vary, given, _gallery)

    def _interpolate_tab(self) -> None:
        other = gr.State()
        with gr.Row():
            with gr.Column(min_width=200):
                upload, random = self._source()
            seen = gr.Image(label="The other picture", interactive=False, buttons=[], height=180, min_width=160)
        self._take(upload, random, other, seen)
        frames, seed, steps = self._number("Pictures", 8, minimum=2), self._seed(PLACE), self._steps()
        run = gr.Button("Interpolate", variant="primary")
        shown = gr.HTML()
        given = [other, frames, seed, steps]
        self._answer_with(shown, run, self.studio.interpolate, given, _strip_of("Between"))

    def _answer_with(
        self, output: Any, run: gr.Button, function: Callable[..., Any], given: list, show: Callable
    ) -> None:
        """Wires a button to a function of the picture of a user and of other values."""

        @_answering
        def answer(picture, *values):
            if picture is None:
                raise ValueError("Choose a picture first.")
            return show(function(picture, *values))

        run.click(answer, [self.picture, *given], output, api_visibility="private")


def _gallery(made: Made) -> list[tuple[Image.Image, str]]:
    return [(enlarge(image), caption) for image, caption in zip(made.images, made.captions, strict=True)]


def _strip_of(what: str) -> Callable[[Made], str]:
    return lambda made: strip(made.images, made.captions, what)


__all__ = ["MAP_HELP", "Controls"]

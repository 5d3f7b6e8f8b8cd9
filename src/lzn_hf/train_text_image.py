# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Train a model of images and texts: text to image, captions, zero-shot labels. A Latent Zoning Network (arXiv 2509.15591).

    accelerate launch -m lzn_hf.train_text_image                            # digits with captions, minutes on a CPU
    accelerate launch -m lzn_hf.train_text_image --preset fashion-captions --data_dir fashion-mnist
    accelerate launch -m lzn_hf.train_text_image --data_dir my_images --image_size 32 --caption_column caption
    accelerate launch -m lzn_hf.train_text_image --model_name_or_path outputs/digits   # images from a labelled model, new texts

A text is one more data type: the latent of an image is trained to lie in the latent zone of its caption. The model has no labels: what
an image shows is said by any text. `docs/text.md` explains captions, and what the model can do with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lzn_hf import LZNModel, LZNOutput
from lzn_hf.data.columns import CAPTION_COLUMN_NAMES
from lzn_hf.losses_lzn import joint_losses
from lzn_hf.modeling_lzn import evaluation_mode
from lzn_hf.training.arguments import COMMON_ARGUMENTS, flag, learning_rates, require_at_least
from lzn_hf.training.captions import (
    Captions,
    CaptionTokens,
    make_tokenizer,
    read_captions,
    text_model_fields,
    tokenize,
)
from lzn_hf.training.command_line import run_as_script
from lzn_hf.training.contrastive import clip_loss
from lzn_hf.training.final_folder import save_final_folder
from lzn_hf.training.loop import TrainingLoop
from lzn_hf.training.models import load_saved_config
from lzn_hf.training.parsing import PRESETS_DIR, parse_arguments
from lzn_hf.training.pools import PooledLoss, Reconstruct
from lzn_hf.training.setup import TrainingSetup, set_up_training
from lzn_hf.training.validation import calibrate, generate_samples, measure_accuracy, reference_anchors
from lzn_hf.visualization.grids import image_grid


MAX_CAPTIONS_SHOWN = 12  # rows of a sample grid
# The text model of a saved model that has none yet.
TEXT_CONFIG = {
    "model_type": "bert",
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
}


@dataclass
class TextArguments:
    """Settings of training with texts alone."""

    _argument_group_name = "texts"

    baseline: Literal["none", "clip"] = flag(
        "none", "A specialist for comparison: `clip`, the two encoders alone, trained by the loss of CLIP."
    )
    temperature: float = flag(0.07, "Temperature of `clip`.")
    captions: str = flag(
        "none",
        "JSON file with `templates`, other `names` of labels, and `held_out_templates` that only measure; or one of digits and "
        "fashion-mnist; `none`: labels are captions.",
    )
    caption_column: str | None = flag(
        None,
        "Column of the captions, strings or lists of them; default: the labels of the data are described by `captions`, and in data without "
        "labels, `text`, `caption` or `captions` is the column.",
    )
    tokenizer_name_or_path: str | None = flag(
        None,
        "Folder or hub id of a tokenizer; default: one of the words of the captions, or that of `model_name_or_path`.",
    )
    max_text_length: int = flag(32, "Tokens of the longest text; longer ones are cut.")
    encoder_learning_rate: float = flag(1e-3, "Adam's learning rate for the image encoder.")
    decoder_learning_rate: float = flag(2e-3, "... for the image decoder.")
    type_encoders_learning_rate: float = flag(1e-3, "... for the text encoder.")
    num_reference_anchors: int = flag(
        2048, "Training images (drawn by seed) whose anchors the model keeps for inference."
    )
    num_text_anchors: int = flag(1024, "Captions whose anchors the model keeps, to place single texts among.")
    samples_per_caption: int = flag(10, "Columns of the sample grids.")
    num_inference_steps: int = flag(20, "Steps of the sampler for the sample grids.")

    def __post_init__(self) -> None:
        require_at_least(self, 1, "max_text_length", "num_reference_anchors", "num_text_anchors")
        require_at_least(self, 1, "samples_per_caption", "num_inference_steps")
        require_at_least(self, 0, "encoder_learning_rate", "decoder_learning_rate", "type_encoders_learning_rate")
        if self.caption_column is not None and self.captions != "none":
            raise ValueError(
                f"`captions` must be none with a `caption_column`, whose texts are the captions, got {self.captions!r}."
            )


ARGUMENTS = COMMON_ARGUMENTS | {"text": TextArguments}


@dataclass
class Texts:
    """The captions of a run and their tokenizer, which the labels of the data decide."""

    arguments: TextArguments
    pretrained: str | None
    captions: Captions = field(init=False)
    tokenizer: PreTrainedTokenizerBase = field(init=False)

    def extend(self, config: Mapping, label_names: Sequence[str]) -> dict:
        """Reads captions and tokenizer for the labels of the data. Returns the configuration of the text model."""
        text = self.arguments
        if not label_names:
            raise ValueError(
                "the data has no captions: name their column by `--caption_column`, or give it labels, which are captions themselves or "
                "are described by `--captions`."
            )
        self.captions = read_captions(captions_file(text.captions), label_names)
        folder = text.tokenizer_name_or_path
        knows_texts = self.pretrained is not None and load_saved_config(self.pretrained).text_config is not None
        folder = self.pretrained if folder is None and knows_texts else folder
        self.tokenizer = make_tokenizer(self.captions.all(), text.max_text_length, folder)
        if knows_texts:
            return {}
        fields = config.get("text_config") or {} if self.pretrained is None else TEXT_CONFIG
        # A saved model that has no texts yet gets a decoder that is given their anchors, as the presets have.
        decoder = {} if self.pretrained is None else {"decoder_data_type": "text"}
        return {"text_config": text_model_fields(self.tokenizer, fields), **decoder}


def captions_file(name: str) -> Path | None:
    """Returns the file that `--captions` names: a path, or a name of those that come with the package."""
    if name == "none":
        return None
    known = Path(__file__).resolve().parent / "captions" / f"{name}.json"
    return known if known.is_file() else Path(name)


def main(argv: Sequence[str] | None = None) -> Path | None:
    """Trains by the command line `argv` (`None`: that of the process). Returns the model folder, `None` for a dry run."""
    # 1. Settings, data, captions, model: everything is checked before anything is written.
    parsed = parse_arguments(
        ARGUMENTS, PRESETS_DIR / "text-image", argv, description=__doc__, default_preset="digits-captions"
    )
    model_args, data_args, run, text = parsed
    if text.baseline == "clip":
        model_args.config["decoder_type"] = None
    data_args.label_column = text.caption_column or data_args.label_column
    data_args.caption_columns = CAPTION_COLUMN_NAMES
    texts = Texts(text, model_args.model_name_or_path)
    setup = set_up_training(
        "train_text_image",
        model_args,
        data_args,
        run,
        text=text,
        model_labels=False,
        check=check_model,
        extend=partial(texts.extend, model_args.config),
    )
    if setup is None:
        return None
    setup.tokenizer = texts.tokenizer
    examples = texts.captions.first_unseen[:2]
    of_the_data = text.caption_column is not None or data_args.label_column in CAPTION_COLUMN_NAMES
    if not of_the_data and len(examples) > 1:  # captions of the data may not be ours to publish
        setup.example_texts = examples
    tokens = CaptionTokens(texts.tokenizer, texts.captions.by_label)

    # 2. Train. On the way, and at the end, the averaged weights draw samples of captions and recognise the validation images.
    evaluate = partial(validate, setup, text, texts)

    def draw(path: Path) -> None:
        save_samples(setup.model, path, text, texts, run.seed)

    images, loss = setup.draw_images, partial(pool_loss, setup, tokens)
    weight = setup.model.config.reconstruction_weight
    pooled_loss: PooledLoss | None = PooledLoss(images, loss, reconstruction_weight=weight, decoder_labels=False)
    compute_loss = partial(text_loss, setup, tokens)
    if text.baseline == "clip":
        pooled_loss, compute_loss = None, partial(baseline_loss, setup, tokens, text)
    loop = TrainingLoop(setup, learning_rates(text), compute_loss, pooled_loss=pooled_loss)
    if run.dry_run:
        loop.time_steps()
        return None
    shown = {"recon": "reconstruction_loss", "align": "alignment_loss", "own": "own_caption_share"}
    outputs: dict[str, Any] = {"evaluate": evaluate, "draw": None if setup.model.decoder is None else draw}
    loop.fit(**outputs, shown=shown)

    # 3. The final folder: averaged weights, reference anchors of images and of texts, tokenizer, samples.
    return save_final_folder(
        loop,
        **outputs,
        num_reference_anchors=text.num_reference_anchors,
        finish=partial(finish, setup, text, texts),
    )


def check_model(model: LZNModel) -> None:
    """Raises a `ValueError` for a model without image encoder or text encoder."""
    if model.encoder is None or "text" not in model.type_encoders:
        raise ValueError(
            "train_text_image.py trains a model of images and texts, but the model has no "
            f"{'image' if model.encoder is None else 'text'} encoder: give `encoder_type` and `text_config`, as the preset "
            "digits-captions does."
        )


def text_loss(
    setup: TrainingSetup,
    tokens: CaptionTokens,
    model: nn.Module,
    batch: Mapping[str, Tensor],
    generator: torch.Generator,
) -> tuple[Tensor, Mapping[str, Tensor | None]]:
    """Computes the loss of a batch by the prepared model, and the metrics to log.

    Args:
        setup ([`TrainingSetup`]): the run.
        tokens ([`CaptionTokens`]): the captions.
        model (`nn.Module`): the model as accelerate has prepared it.
        batch (`Mapping[str, Tensor]`): `pixel_values`, uint8 `(B, C, H, W)`, and `labels` `(B,)`.
        generator (`torch.Generator`): draws captions, flips, shifts, noise and times.
    """
    pixel_values = setup.draw_images(batch, generator, **setup.process_share)
    captions = tokens.draw(batch["labels"], generator)
    output = model(pixel_values, **captions, return_loss=True, generator=generator, pool_group=setup.pool_group)
    return output.loss, step_metrics(output)


def baseline_loss(
    setup: TrainingSetup,
    tokens: CaptionTokens,
    text: TextArguments,
    model: nn.Module,
    batch: Mapping[str, Tensor],
    generator: torch.Generator,
) -> tuple[Tensor, Mapping[str, Tensor | None]]:
    """Computes the loss of CLIP of a batch.

    Args:
        setup ([`TrainingSetup`]): the run.
        tokens ([`CaptionTokens`]): the captions.
        text ([`TextArguments`]): has the temperature.
        model (`nn.Module`): the model as accelerate has prepared it.
        batch (`Mapping[str, Tensor]`): `pixel_values`, uint8 `(B, C, H, W)`, and `labels` `(B,)`.
        generator (`torch.Generator`): draws captions, flips, shifts.
    """
    pixel_values = setup.draw_images(batch, generator, **setup.process_share)
    captions = tokens.draw(batch["labels"], generator)
    output = model(pixel_values, **captions, return_loss=False)
    return clip_loss(output.anchors, output.type_anchors["text"], captions, text.temperature), {}


def pool_loss(
    setup: TrainingSetup,
    tokens: CaptionTokens,
    anchors: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    reconstruct: Reconstruct,
) -> tuple[Tensor, Mapping[str, Tensor | None]]:
    """Computes the loss of a pool of several micro-batches, as [`text_loss`] does for one.

    Args:
        setup ([`TrainingSetup`]): the run.
        tokens ([`CaptionTokens`]): the captions.
        anchors (`Tensor` of shape `(1, N, D)`): anchors of the images of the pool.
        labels (`Tensor` of shape `(N,)`): their labels.
        generator (`torch.Generator`): draws the noise.
        reconstruct (`Callable`): the reconstruction loss of latents, see [`PooledLoss`].
    """
    model = setup.model
    types = model.encode_types({"text": tokens.draw(labels, generator)}, len(labels))
    decoder_loss = None if model.decoder is None else reconstruct
    output = LZNOutput(
        **joint_losses(model, anchors[0], None, decoder_loss, generator=generator, group=setup.pool_group, types=types)
    )
    return output["loss"], step_metrics(output)


def step_metrics(output: LZNOutput) -> dict[str, Tensor | None]:
    """Returns the terms of the loss, and statistics of the latents: mean 0, std 1 and in the zones of their captions is ideal."""
    latents = output["latents"]
    own = output["type_log_probs"]["text"][-1, : len(latents)]
    return {
        "reconstruction_loss": output.reconstruction_loss,
        "alignment_loss": output.alignment_loss,
        "latent_mean": latents.mean(),
        "latent_std": latents.std(),
        "own_caption_share": own.exp().mean(),
    }


def text_anchors(model: LZNModel, texts: Texts, captions: Sequence[str]) -> Tensor:
    """Encodes captions as anchors `(N, D)`."""
    with evaluation_mode(model):
        tokens = tokenize(texts.tokenizer, captions)
        return model.get_text_anchors(**{name: values.to(model.device) for name, values in tokens.items()})


def held_out_anchors(model: LZNModel, texts: Texts, labels: Sequence[int]) -> Tensor:
    """Encodes the first caption of each label, see [`Captions.first_unseen`], as anchors `(C, D)`."""
    candidates = texts.captions.first_unseen
    return text_anchors(model, texts, [candidates[label] for label in labels])


def validation_batches(setup: TrainingSetup, split_over_processes: bool) -> tuple[list[dict[str, Tensor]], list[int]]:
    """Returns validation images whose labels count the labels that these images have, and these labels."""
    batches = list(setup.validation_batches())
    labels = torch.cat([batch["labels"] for batch in batches]).unique()
    batches = list(setup.validation_batches(split_over_processes=split_over_processes))
    numbered = [{**batch, "labels": torch.searchsorted(labels, batch["labels"])} for batch in batches]
    return numbered, labels.tolist()


def validate(setup: TrainingSetup, text: TextArguments, texts: Texts) -> dict[str, float]:
    """Computes how many validation images are in the zone of a caption of their label; empty without images."""
    if setup.data.validation is None:
        return {}
    model = setup.model
    batches, labels = validation_batches(setup, split_over_processes=True)
    candidates = held_out_anchors(model, texts, labels)
    if text.baseline == "clip":
        return {"validation_accuracy": measure_accuracy(setup.accelerator, model, batches, cosines(model, candidates))}

    def classify(pixel_values: Tensor) -> Tensor:
        return model.compare_images(model.get_image_anchors(pixel_values), candidates)

    with reference_anchors(model, setup.encode_train_anchors(text.num_reference_anchors)):
        return {"validation_accuracy": measure_accuracy(setup.accelerator, model, batches, classify)}


def cosines(model: LZNModel, candidates: Tensor) -> Callable[[Tensor], Tensor]:
    """The scores of CLIP: cosines of the anchors of images with those of candidates."""
    return lambda pixel_values: F.normalize(model.get_image_anchors(pixel_values), dim=1) @ F.normalize(candidates).T


def finish(setup: TrainingSetup, text: TextArguments, texts: Texts) -> dict[str, float]:
    """Stores the anchors of captions, and fits the time at which scores are read to the validation images."""
    model, captions = setup.model, texts.captions.all()
    order = torch.randperm(len(captions), generator=torch.Generator().manual_seed(setup.run.seed))
    kept = [captions[i] for i in order[: text.num_text_anchors].tolist()]
    model.set_type_reference_anchors("text", text_anchors(model, texts, kept))
    if setup.data.validation is None or text.baseline == "clip":
        return {}
    batches, labels = validation_batches(setup, split_over_processes=False)
    return calibrate(model, batches, setup.run.seed, held_out_anchors(model, texts, labels))[0]


def save_samples(model: LZNModel, path: Path, text: TextArguments, texts: Texts, seed: int) -> None:
    """Saves a grid with one row of generated images per caption.

    Args:
        model ([`LZNModel`]): the model.
        path (`Path`): the picture.
        text ([`TextArguments`]): how many images, and by how many steps.
        texts ([`Texts`]): the captions and their tokenizer.
        seed (`int`): draws the images.
    """
    captions = [some[0] for some in texts.captions.by_label[:MAX_CAPTIONS_SHOWN]]
    known = text_anchors(model, texts, texts.captions.all()[: text.num_text_anchors])
    options = {"num_images_per_label": text.samples_per_caption, "num_inference_steps": text.num_inference_steps}
    with reference_anchors(model, known, "text"):
        images = generate_samples(model, seed, texts.tokenizer, prompt=captions, **options)
    image_grid(images, text.samples_per_caption, row_labels=captions).save(path)


if __name__ == "__main__":
    run_as_script(main)

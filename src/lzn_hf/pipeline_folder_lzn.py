# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Saves, loads and shares a pipeline as one flat folder, which the auto classes of transformers open, too."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from typing import TypeVar

from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from huggingface_hub import CommitInfo, ModelCard, ModelCardData, create_repo, file_exists

from .image_processing_lzn import LZNImageProcessor
from .modeling_lzn import LZNModel
from .sampling_lzn import FlowScheduler


# The files of each component, flat in one folder; a component that the caller passes needs none.
MODEL_FILES = {
    "model": ("config.json", "model.safetensors"),
    "scheduler": ("scheduler_config.json",),
    "image_processor": ("preprocessor_config.json",),
}

Pipeline = TypeVar("Pipeline", bound="FlatFolderPipeline")


class FlatFolderPipeline(DiffusionPipeline):
    """A `DiffusionPipeline` of the components `model`, `scheduler` and `image_processor`, whose files lie beside each other."""

    model: LZNModel
    scheduler: FlowScheduler
    image_processor: LZNImageProcessor

    @classmethod
    def from_pretrained(cls: type[Pipeline], pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> Pipeline:
        """Loads a folder or a repository of the Hub; see `DiffusionPipeline.from_pretrained` for the arguments.

        Raises:
            FileNotFoundError: if the folder lacks a file, naming it.
        """
        if os.path.isdir(pretrained_model_name_or_path):
            _check_model_folder(pretrained_model_name_or_path, kwargs, pretrained_model_name_or_path)
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def download(cls, pretrained_model_name: str | os.PathLike, **kwargs) -> str | os.PathLike:
        """Downloads a repository and checks that no file is missing; see `DiffusionPipeline.download`."""
        folder = super().download(pretrained_model_name, **kwargs)
        _check_model_folder(folder, kwargs, pretrained_model_name)
        return folder

    def save_pretrained(  # type: ignore[override]  # one flat folder has no variants
        self,
        save_directory: str | os.PathLike,
        push_to_hub: bool = False,
        *,
        repo_id: str | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        create_pr: bool = False,
    ) -> CommitInfo | None:
        """Saves all components flat in one folder, which transformers' auto classes and pipelines open, too.

        Args:
            save_directory (`str` or `os.PathLike`): the folder. A `README.md` in it is kept; without one a short card is written.
            push_to_hub (`bool`, *optional*, defaults to `False`): whether to upload the folder, too.
            repo_id (`str`, *optional*): the repository; defaults to the name of the folder in the user's namespace.
            commit_message, private, token, create_pr (*optional*): see `huggingface_hub.create_repo` and `upload_folder`.

        Returns:
            `CommitInfo`, *optional*: the commit, if the folder was uploaded.

        Raises:
            ValueError: if `save_directory` is a file.
        """
        save_directory = os.fspath(save_directory)
        if os.path.isfile(save_directory):
            raise ValueError(f"`save_directory` must be a folder, got the file {save_directory!r}.")
        hub_id = None
        if push_to_hub:
            name = repo_id or os.path.basename(os.path.abspath(save_directory))
            hub_id = create_repo(name, exist_ok=True, private=private, token=token).repo_id
        for component in (self.model, self.scheduler, self.image_processor):
            component.save_pretrained(save_directory)
        self.save_config(save_directory)
        card_path = os.path.join(save_directory, "README.md")
        if not os.path.isfile(card_path) and not (hub_id and file_exists(hub_id, "README.md", token=token)):
            self._model_card(hub_id or repo_id or "path/to/this/folder").save(card_path)
        if hub_id is None:
            return None
        return self._upload_folder(save_directory, hub_id, token, commit_message, create_pr)  # type: ignore[arg-type]

    def to_json_string(self) -> str:
        """Returns the content of model_index.json, without the folder that this pipeline was loaded from."""
        config = json.loads(super().to_json_string())
        config.pop("_name_or_path", None)
        return json.dumps(config, indent=2, sort_keys=True) + "\n"

    def push_to_hub(self, repo_id: str, **kwargs) -> CommitInfo | None:  # type: ignore[override]
        """Uploads the pipeline to the Hub; keyword arguments as in `save_pretrained`."""
        with tempfile.TemporaryDirectory() as folder:
            return self.save_pretrained(folder, push_to_hub=True, repo_id=repo_id, **kwargs)

    def _model_card(self, location: str) -> ModelCard:
        tags = ["latent-zoning-network", "image-generation", "image-feature-extraction"]
        metadata = ModelCardData(library_name="lzn_hf", tags=tags).to_yaml()
        return ModelCard(
            f"---\n{metadata}\n---\n\n# Latent Zoning Network\n\nA model of [Latent Zoning Networks]"
            "(https://arxiv.org/abs/2509.15591): one latent space that generates, embeds and classifies images.\n\n"
            f'```py\nfrom lzn_hf import LZNPipeline\n\npipe = LZNPipeline.from_pretrained("{location}")\n'
            "image = pipe().images[0]\nembedding = pipe.embed(image)\n```\n"
        )


def _check_model_folder(folder: str | os.PathLike, components: Mapping[str, object], name: str | os.PathLike) -> None:
    """Raises a `FileNotFoundError` that names the files a folder lacks; `components` are those that need none."""
    wanted = [file for part, files in MODEL_FILES.items() if components.get(part) is None for file in files]
    found = set(os.listdir(folder))
    if "model.safetensors.index.json" in found:
        found.add("model.safetensors")
    missing = [file for file in ["model_index.json", *wanted] if file not in found]
    if missing:
        raise FileNotFoundError(
            f"{os.fspath(name)!r} lacks {', '.join(missing)}. Save the whole pipeline with `LZNPipeline.save_pretrained`; a "
            "model alone, saved without it, loads as `LZNPipeline.from_model(LZNModel.from_pretrained(...))`."
        )


__all__ = ["FlatFolderPipeline"]

# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Saves, loads and shares a pipeline as one flat folder, which the auto classes of transformers open, too."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from huggingface_hub import CommitInfo, ModelCard, create_repo, file_exists
from huggingface_hub.errors import RemoteEntryNotFoundError
from transformers import PreTrainedTokenizerBase

from .card_lzn import ANY_FOLDER, EXAMPLE_TEXTS, card_metadata, usage
from .files_lzn import check_names, naming, read_object
from .image_processing_lzn import LZNImageProcessor
from .modeling_lzn import LZNModel
from .processing_lzn import TOKENIZER_FILE, LZNProcessor
from .sampling_lzn import DIFFUSERS_FIELDS, FlowScheduler, check_scheduler_fields


# The files of each component beside the weights, flat in one folder; a component that the caller passes needs none.
CONFIG_FILES = {
    "model": "config.json",
    "scheduler": "scheduler_config.json",
    "image_processor": "preprocessor_config.json",
}
# The library of each component and the classes of it that a folder may name. Others would have to be imported.
COMPONENT_CLASSES = {
    "model": ["lzn_hf", "LZNModel"],
    "scheduler": ["diffusers", *(scheduler.__name__ for scheduler in get_args(FlowScheduler))],
    "image_processor": ["lzn_hf", "LZNImageProcessor"],
}
TOKENIZER_CLASS = re.compile(r"\w*Tokenizer(Fast)?|TokenizersBackend")
# What a save may be told about its upload, as in diffusers.
UPLOAD_ARGUMENTS = ("repo_id", "commit_message", "private", "token", "create_pr")
# What diffusers passes on to a model that it loads, beside its dtype.
MODEL_ARGUMENTS = ("device_map", "max_memory", "offload_folder", "use_safetensors", "low_cpu_mem_usage")
# What to do about a folder that is no pipeline.
WHOLE_PIPELINE = (
    "Save the whole pipeline with `LZNPipeline.save_pretrained`; a model alone, saved without it, loads as "
    "`LZNPipeline.from_model(LZNModel.from_pretrained(...))`."
)
# The weights of a variant, whole or a shard, and the index of shards, as transformers names them.
WEIGHTS = re.compile(
    r"model(?:\.([\w-]+?))?(?:-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index(?:\.([\w-]+))?\.json"
)

Pipeline = TypeVar("Pipeline", bound="FlatFolderPipeline")


class FlatFolderPipeline(DiffusionPipeline):
    """A `DiffusionPipeline` of the components `model`, `scheduler`, `image_processor` and, for a model that has texts, `tokenizer`, whose
    files lie beside each other."""

    _optional_components = ["tokenizer"]

    model: LZNModel
    scheduler: FlowScheduler
    image_processor: LZNImageProcessor
    tokenizer: PreTrainedTokenizerBase | None

    @classmethod
    def from_pretrained(cls: type[Pipeline], pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> Pipeline:
        """Loads a folder or a repository of the Hub; see `DiffusionPipeline.from_pretrained` for the arguments.

        Raises:
            ValueError: if there are no weights of the `variant`, for `use_safetensors=False`, for a `variant` along with a
                `quantization_config` or `device_map="balanced"`, and for what the files say, with file and field.
            OSError: if a file is missing or damaged, naming it.
        """
        _check_format(use_safetensors=kwargs.get("use_safetensors"))
        variant = kwargs.pop("variant", None)
        if kwargs.get("model") is not None:
            variant = None
        name = folder = pretrained_model_name_or_path
        if variant is not None:
            _check_variant_arguments(variant, kwargs)
            if not os.path.isdir(name):
                folder = cls.download(name, variant=variant, **kwargs)
        if os.path.isdir(folder):
            _check_model_folder(folder, kwargs, name, variant)
        if variant is not None:
            # diffusers looks for variants in the subfolders of components only.
            kwargs["model"] = _load_variant(folder, variant, kwargs)
        with naming(os.fspath(folder)):
            pipe = super().from_pretrained(folder, **kwargs)
        if variant is not None:
            pipe.register_to_config(_name_or_path=name)
        return pipe

    @classmethod
    def download(cls, pretrained_model_name: str | os.PathLike, **kwargs) -> str | os.PathLike:
        """Downloads a repository and checks that no file is missing; see `DiffusionPipeline.download`.

        Raises:
            ValueError: if there are no weights of the `variant`, and for `use_safetensors=False`.
            FileNotFoundError: if another file is missing, naming it.
        """
        _check_format(use_safetensors=kwargs.get("use_safetensors"))
        try:
            folder = super().download(pretrained_model_name, **kwargs)
        except RemoteEntryNotFoundError as error:  # diffusers asks for this file by name, for others by pattern
            raise FileNotFoundError(
                f"{os.fspath(pretrained_model_name)!r} lacks model_index.json. {WHOLE_PIPELINE}"
            ) from error
        _check_model_folder(folder, kwargs, pretrained_model_name, kwargs.get("variant"))
        return folder

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        use_flashpack: bool = False,
        **kwargs,
    ) -> CommitInfo | None:
        """Saves all components flat in one folder, which transformers' auto classes and pipelines open, too.

        Args:
            save_directory (`str` or `os.PathLike`): the folder. A `README.md` in it is kept; without one a short card is written.
            safe_serialization (`bool`, *optional*, defaults to `True`): must be `True`, as weights are never pickled.
            variant (`str`, *optional*): a name for these weights, `model.<variant>.safetensors`; those of other variants stay beside
                them. Loading takes the same `variant`. `config.json` holds one dtype for all, that of the last save: pass another
                as `dtype`.
            max_shard_size (`int` or `str`, *optional*): the largest file of weights, in bytes or as `"5GB"`; larger weights are split.
                Defaults to that of transformers.
            push_to_hub (`bool`, *optional*, defaults to `False`): whether to upload the folder, too.
            use_flashpack (`bool`, *optional*, defaults to `False`): must be `False`, as models of transformers lack this format.
            kwargs (*optional*): of the upload: `repo_id` (by default the name of the folder in the user's namespace),
                `commit_message`, `private`, `token`, `create_pr`, see `huggingface_hub.create_repo` and `upload_folder`.

        Returns:
            `CommitInfo`, *optional*: the commit, if the folder was uploaded.

        Raises:
            ValueError: if `save_directory` is a file, for another format or an unusable `variant`, for other keyword arguments, for a
                model with adapters that are not merged, and for a scheduler that could not be loaded again.
        """
        if unknown := sorted(set(kwargs) - set(UPLOAD_ARGUMENTS)):  # a mistyped `private` must not publish
            raise ValueError(f"`kwargs` may hold {', '.join(UPLOAD_ARGUMENTS)}, got {', '.join(unknown)}.")
        if os.path.isfile(save_directory):
            raise ValueError(f"`save_directory` must be a folder, got the file {os.fspath(save_directory)!r}.")
        _check_format(safe_serialization=safe_serialization, use_flashpack=use_flashpack)
        _check_variant(variant)
        self._check_saved()
        repo_id, token = kwargs.get("repo_id"), kwargs.get("token")
        hub_id = None
        if push_to_hub:
            name = repo_id or os.path.basename(os.path.abspath(save_directory))
            hub_id = create_repo(name, exist_ok=True, private=kwargs.get("private"), token=token).repo_id
        self._save_components(save_directory, variant, max_shard_size)
        card_path = os.path.join(save_directory, "README.md")
        if not os.path.isfile(card_path) and not (hub_id and file_exists(hub_id, "README.md", token=token)):
            self._model_card(hub_id or repo_id or ANY_FOLDER, variant).save(card_path)
        if hub_id is None:
            return None
        commit_message, create_pr = kwargs.get("commit_message"), kwargs.get("create_pr", False)
        return self._upload_folder(save_directory, hub_id, token, commit_message, create_pr)

    def to_json_string(self) -> str:
        """Returns the content of model_index.json, without the folder that this pipeline was loaded from and a tokenizer that is not there."""
        config = json.loads(super().to_json_string())
        config.pop("_name_or_path", None)
        if self.tokenizer is None:
            config.pop("tokenizer", None)
        return json.dumps(config, indent=2, sort_keys=True) + "\n"

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        safe_serialization: bool = True,
        variant: str | None = None,
        subfolder: str | None = None,
    ) -> CommitInfo:
        """Uploads the pipeline to the Hub.

        Args:
            repo_id (`str`): the repository, made if there is none.
            commit_message, private, token, create_pr (*optional*): see `huggingface_hub.create_repo` and `upload_folder`.
            safe_serialization, variant (*optional*): see `save_pretrained`.
            subfolder (`str`, *optional*): a folder of the repository for the files, without a card. The auto classes of transformers
                load from there with the same argument; diffusers only loads from the root.

        Returns:
            `CommitInfo`: the commit.

        Raises:
            ValueError: for another format, an unusable `variant`, a model with adapters that are not merged, and a scheduler that could not
                be loaded again.
        """
        _check_format(safe_serialization=safe_serialization)
        _check_variant(variant)
        self._check_saved()
        hub_id = create_repo(repo_id, exist_ok=True, private=private, token=token).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self._save_components(folder, variant)
            if not subfolder and not file_exists(hub_id, "README.md", token=token):
                self._model_card(hub_id, variant).save(os.path.join(folder, "README.md"))
            return self._upload_folder(folder, hub_id, token, commit_message, create_pr, subfolder)

    def _check_saved(self) -> None:
        """Raises a `ValueError` for what could not be loaded again."""
        _check_no_adapters(self.model)
        self.model.settle_config()
        _check_scheduler(self.scheduler)

    def _save_components(
        self, folder: str | os.PathLike, variant: str | None, max_shard_size: int | str | None = None
    ) -> None:
        os.makedirs(folder, exist_ok=True)
        sharding: dict[str, Any] = {} if max_shard_size is None else {"max_shard_size": max_shard_size}
        # In place, transformers would delete the shards of other variants, and leave a whole file that it loads instead of new shards.
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            self.model.save_pretrained(fresh, variant=variant, **sharding)
            for name in _weights_by_variant(folder).get(variant, []):
                os.remove(os.path.join(folder, name))
            for name in os.listdir(fresh):
                os.replace(os.path.join(fresh, name), os.path.join(folder, name))
        self.scheduler.save_pretrained(folder)
        if self.tokenizer is None:
            self.image_processor.save_pretrained(folder)
        else:
            LZNProcessor(self.image_processor, self.tokenizer).save_pretrained(folder)
        self.save_config(folder)

    def _model_card(self, location: str, variant: str | None) -> ModelCard:
        config, texts = self.model.config, None if self.tokenizer is None else EXAMPLE_TEXTS
        return ModelCard(
            f"---\n{card_metadata(config).to_yaml()}\n---\n\n# Latent Zoning Network\n\nA model of [Latent Zoning Networks]"
            "(https://arxiv.org/abs/2509.15591): one latent space that generates, embeds and classifies images.\n\n"
            f"## How to use\n\n{usage(config, location, variant, texts)}"
        )


def _weights_by_variant(folder: str | os.PathLike) -> dict[str | None, list[str]]:
    """Returns the names of the files of weights in a folder by variant, `None` for the weights without."""
    files: dict[str | None, list[str]] = {}
    for name in os.listdir(folder):
        if match := WEIGHTS.fullmatch(name):
            files.setdefault(match[1] or match[2], []).append(name)
    return files


def _check_format(
    *, safe_serialization: bool = True, use_safetensors: bool | None = None, use_flashpack: bool = False
) -> None:
    """Raises a `ValueError` for arguments of diffusers that ask for other weights than safetensors."""
    for name, value in (("safe_serialization", safe_serialization), ("use_safetensors", use_safetensors)):
        if value is not None and not value:
            raise ValueError(
                f"`{name}` must be True, got {value!r}: weights are safetensors, as nothing is ever pickled or unpickled."
            )
    if use_flashpack:
        raise ValueError(
            f"`use_flashpack` must be False, got {use_flashpack!r}: models of transformers lack this format."
        )


def _check_variant(variant: str | None) -> None:
    """Raises a `ValueError` unless `variant` fits into the name of a file that both libraries recognise."""
    if variant is not None and not (isinstance(variant, str) and re.fullmatch(r"[\w-]+", variant)):
        raise ValueError(f"`variant` must be of letters, digits, '_' and '-', such as 'fp16', got {variant!r}.")


def _check_scheduler(scheduler: FlowScheduler) -> None:
    """Raises a `ValueError` for a scheduler that could not be loaded again."""
    try:
        fields = json.loads(scheduler.to_json_string())
    except TypeError as error:
        raise ValueError(f"the settings of `scheduler` must be those that JSON has: {error}.") from error
    check_scheduler_fields(fields)


def _check_no_adapters(model: LZNModel) -> None:
    """Raises a `ValueError` for a model with adapters of PEFT: transformers would save those alone, without the model."""
    if hasattr(model, "peft_config"):
        raise ValueError(
            f"`model` must have no adapters, got {', '.join(model.peft_config)}: merge them by `merge_and_unload()` of PEFT, or save "
            "them alone by `pipe.model.save_pretrained(folder)`."
        )


def _check_variant_arguments(variant: str, arguments: Mapping[str, Any]) -> None:
    """Raises a `ValueError` for what `_load_variant` cannot do."""
    _check_variant(variant)
    quantized, balanced = arguments.get("quantization_config") is not None, arguments.get("device_map") == "balanced"
    for name, is_unsupported in (("quantization_config", quantized), ("device_map", balanced)):
        if is_unsupported:
            raise ValueError(
                f"`{name}` must not be {arguments[name]!r} with a `variant`. Load the model by itself and pass it as `model`: "
                f"`LZNModel.from_pretrained(folder, variant={variant!r}, ...)`."
            )


def _load_variant(folder: str | os.PathLike, variant: str, arguments: Mapping[str, Any]) -> LZNModel:
    """Loads the model of a folder as diffusers does, given the arguments of `DiffusionPipeline.from_pretrained`."""
    dtype = arguments.get("torch_dtype") if arguments.get("dtype") is None else arguments["dtype"]
    if isinstance(dtype, dict):
        dtype = dtype.get("model", dtype.get("default", torch.float32))
    passed = {name: arguments[name] for name in MODEL_ARGUMENTS if name in arguments}
    return LZNModel.from_pretrained(folder, variant=variant, dtype=dtype, **passed)


def _check_model_folder(
    folder: str | os.PathLike, components: Mapping[str, object], name: str | os.PathLike, variant: str | None
) -> None:
    """Raises an error unless a folder has the weights of `variant` and all other files; `components` are those that need none."""
    found, weights = set(os.listdir(folder)), _weights_by_variant(folder)
    has_weights = components.get("model") is not None or variant in weights
    variants = ", ".join(sorted(filter(None, weights)))
    if variant is not None and not has_weights:
        # Begins as the message of diffusers, which programs look for.
        raise ValueError(
            f"You are trying to load the model files of the `variant={variant}`, but there are none: `variant` must be one of "
            f"{os.fspath(name)!r}, which has {variants or 'none'}, got {variant!r}."
        )
    wanted = [file for part, file in CONFIG_FILES.items() if components.get(part) is None]
    index = _check_index(os.path.join(folder, "model_index.json")) if "model_index.json" in found else {}
    if "tokenizer" not in components and index.get("tokenizer", [None])[0] is not None:
        wanted.append(TOKENIZER_FILE)
    missing = [file for file in ["model_index.json", *wanted] if file not in found]
    if not has_weights:
        missing.append("model.safetensors")
    if missing:
        remedy = (
            f"It has the variants {variants}: pass one as `variant`."
            if missing == ["model.safetensors"] and variants
            else WHOLE_PIPELINE
        )
        raise FileNotFoundError(f"{os.fspath(name)!r} lacks {', '.join(missing)}. {remedy}")
    if components.get("scheduler") is None:
        path = os.path.join(folder, CONFIG_FILES["scheduler"])
        fields = read_object(path, infinite=["lambda_min_clipped"])
        with naming(path):
            check_scheduler_fields(fields)
            if fields["_class_name"] != index["scheduler"][1]:
                raise ValueError(
                    f"`_class_name` must be {index['scheduler'][1]!r}, the `scheduler` of model_index.json, got {fields['_class_name']!r}."
                )


def _check_index(path: str) -> dict[str, Any]:
    """Reads a model_index.json. Raises a `ValueError` unless its classes are those of this package and schedulers of diffusers."""
    index = read_object(path)
    with naming(path):
        if not isinstance(index.get("_class_name"), str):
            raise ValueError(f"`_class_name` must be a name such as 'LZNPipeline', got {index.get('_class_name')!r}.")
        tokenizer = index.get("tokenizer", [None, None])
        if tokenizer != [None, None] and not (
            isinstance(tokenizer, list)
            and len(tokenizer) == 2
            and tokenizer[0] == "transformers"
            and isinstance(tokenizer[1], str)
            and TOKENIZER_CLASS.fullmatch(tokenizer[1])
        ):
            raise ValueError(f"`tokenizer` must be 'transformers' and the class of a tokenizer, got {tokenizer!r}.")
        known = {*CONFIG_FILES, *DIFFUSERS_FIELDS, "tokenizer"}
        check_names(index, known, FlatFolderPipeline)
        for name, (library, *classes) in COMPONENT_CLASSES.items():
            value = index.get(name)
            if not isinstance(value, list) or len(value) != 2 or value[0] != library or value[1] not in classes:
                raise ValueError(f"`{name}` must be {library!r} and one of {', '.join(classes)}, got {value!r}.")
        if others := sorted(set(index) - known):
            raise ValueError(f"`{others[0]}` is no component of a pipeline: those are {', '.join(CONFIG_FILES)}.")
    return index


__all__ = ["FlatFolderPipeline"]

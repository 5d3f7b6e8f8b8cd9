# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Published checkpoints become folders of this package.

`golden/published_layouts.json.xz` has, for each of the six published models, the config (without paths, logging and metrics)
and the key and shape of every tensor in a checkpoint. It is made from a folder of golden data by

    PYTHONPATH=src:tests:utils python tests/utils/test_convert_original_checkpoint.py GOLDEN_DIR

Trainer files for the tests are made from tiny models here. Where the environment variable LZN_GOLDEN_DIR names a folder of
golden data, the checkpoints in it are converted, too, and must reproduce what the published code computes with them.
"""

from __future__ import annotations

import copy
import json
import logging
import lzma
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import convert_original_checkpoint as converter
import published_checkpoint
import published_format
import pytest
import torch
from helpers import GOLDEN_DIR
from safetensors.torch import load_file, save_file

import lzn_hf
from lzn_hf import LZNConfig, LZNModel, LZNPipeline
from lzn_hf.layers_ncsnpp import AttentionBlock


LAYOUTS = GOLDEN_DIR / "published_layouts.json.xz"
CASES = [
    "case_study_1_cifar10",
    "case_study_1_afhqcat",
    "case_study_1_celebahq",
    "case_study_1_lsunbedroom",
    "case_study_2",
    "case_study_3",
]
LARGE_CASES = CASES[1:4]
UNSHARED = ("checkpoint", "distributed", "loggers", "logging", "metrics", "result_folder")  # keys of no use to a model
PUBLISHED_DIR = os.environ.get("LZN_GOLDEN_DIR")
needs_golden = pytest.mark.skipif(not PUBLISHED_DIR, reason="LZN_GOLDEN_DIR does not name a folder of golden data")


def read_layouts() -> dict[str, dict]:
    return json.loads(lzma.decompress(LAYOUTS.read_bytes()))


def compact_layouts(golden: Path) -> dict[str, dict]:
    layouts = {}
    for case in CASES:
        layout = json.loads((golden / f"state_dict_layout_{case}.json").read_text())
        layouts[case] = {
            "config": {key: value for key, value in layout["config"].items() if key not in UNSHARED},
            "parts": {
                part: {
                    "num_params": model["num_params"],
                    "num_trainable_params": model["num_trainable_params"],
                    "num_averages": model["ema_shadow_params"]["count"],
                    "without_average": model["ema_shadow_params"]["skipped_parameter_indices"],
                    "tensors": [[key, shape] for key, shape, _ in model["state_dict"]],
                }
                for part, model in layout["models"].items()
            },
        }
    return layouts


@pytest.fixture(scope="module")
def layouts() -> dict[str, dict]:
    return read_layouts()


# --- Full-size models: names, shapes, order ------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_the_case_is_what_its_published_config_says(layouts, case):
    assert converter.config_from_published(layouts[case]["config"]).to_dict() == converter.CASES[case].to_dict()


def test_cases_in_numbers():
    assert list(converter.CASES) == CASES
    for case, config in converter.CASES.items():
        small = case in ("case_study_1_cifar10", "case_study_3")
        solver = ("euler", 20) if case == "case_study_2" else ("dpmsolver++", 20)
        assert (config.latent_solver, config.latent_num_steps) == solver
        assert (config.alignment_solver, config.step_cutoff) == ("euler", 0.2)
        assert (config.alignment_num_steps, config.alignment_reduction) == (
            (20, "log_prob") if case == "case_study_2" else (100, "prob")
        )
        assert config.image_size == (224 if case == "case_study_2" else 32 if small else 256)
        assert config.num_labels == (10 if case == "case_study_3" else 0)
    assert converter.CASES["case_study_3"].id2label[3] == "cat"
    assert converter.CASES["case_study_2"].decoder_type is None


@pytest.mark.parametrize("case", CASES)
def test_the_key_map_is_a_bijection_with_equal_shapes(layouts, case):
    config, parts = converter.CASES[case], layouts[case]["parts"]
    published = {
        (part, key.removeprefix("model.module.")): tuple(shape)
        for part, layout in parts.items()
        for key, shape in layout["tensors"]
        if not key.endswith(".sigmas")
    }
    with torch.device("meta"):
        model = LZNModel(copy.deepcopy(config))
    ours = model.state_dict()
    keys: dict[str, list[tuple[str, str, bool]]] = {}
    for entry in published_format.published_entries(config):
        keys.setdefault(entry.ours, []).append((entry.part, entry.key, entry.transposed))

    sources = [(part, key) for names in keys.values() for part, key, _ in names]
    assert len(set(sources)) == len(sources) and set(sources) == set(published)
    assert set(keys) == set(ours)
    for name, names in keys.items():
        shapes = [
            published[part, key][::-1] if transposed else published[part, key] for part, key, transposed in names
        ]
        assert ours[name].shape == (sum(shape[0] for shape in shapes), *shapes[0][1:]), name
    for part, layout in parts.items():
        sizes = {name: tensor.numel() for name, tensor in ours.items() if name.startswith(part)}
        assert sum(sizes.values()) == layout["num_params"]
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert sum(sizes.get(name, 0) for name in trained) == layout["num_trainable_params"]


@pytest.mark.parametrize("case", CASES)
def test_the_order_is_the_published_one(layouts, case):
    """The unnamed lists of averages hang on it."""
    entries = published_format.published_entries(converter.CASES[case])
    for part, layout in layouts[case]["parts"].items():
        parameters = [key for key, _ in layout["tensors"] if not key.endswith(".sigmas")]
        mine = [entry for entry in entries if entry.part == part]
        assert ["model.module." + entry.key for entry in mine] == parameters
        assert [i for i, entry in enumerate(mine) if not entry.trainable] == layout["without_average"]
        assert sum(entry.trainable for entry in mine) == layout["num_averages"]


@pytest.mark.parametrize("case", [CASES[0], CASES[1]])
def test_modules_are_numbered_in_running_order(layouts, case):
    """A number for everything that the published list `all_modules` has, also where it holds no parameters."""
    with torch.device("meta"):
        model = LZNModel(copy.deepcopy(converter.CASES[case]))
    for part in ("encoder", "decoder"):
        numbers = {
            int(key.split(".")[3])
            for key, _ in layouts[case]["parts"][part]["tensors"]
            if key.startswith("model.module.all_modules.")
        }
        modules = published_format.numbered_modules(getattr(model, part))
        assert numbers == set(range(len(modules)))
        assert isinstance(modules[-1], torch.nn.Conv2d) == (part == "decoder")


@needs_golden
def test_the_committed_layouts_are_those_of_the_golden_folder(layouts):
    assert layouts == compact_layouts(Path(PUBLISHED_DIR))


# --- Configs -------------------------------------------------------------------------------------------------------------


def tiny_published(layouts, case: str) -> dict:
    """The published config of a case, with networks that take milliseconds."""
    published = copy.deepcopy(layouts[case]["config"])
    if case == "case_study_2":
        params = {"head_num_layers": 2, "head_out_dim": 64, "layers": [1, 2], "widths": [32, 32]}
        published["encoder"] = {"name": "tiny_resnet.make", "params": params}
        return published | {"latent_dim": 64, "prior": {}, "image_size": 40}
    published |= {"image_size": 16, "latent_dim": 6, "prior": {}}
    for part in ("encoder", "decoder"):
        params = published[part]["params"]
        params["latent_dim"] = 6
        params["config"]["data"]["image_size"] = 16
        params["config"]["model"] |= {"nf": 8, "ch_mult": [1, 2], "num_res_blocks": 1}
    published["encoder"]["params"] |= {"num_base_channels": 2, "num_base_units": 8}
    if case in LARGE_CASES:
        published["encoder"]["params"]["latent_transformation_resolutions"] = [8]
    if case == "case_study_3":
        published["label_anchor"]["params"]["z_dim"] = 6
    return published


def set_at(tree: dict, path: str, value: object) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        tree = tree[parent]
    tree[last] = value


MODEL = "decoder.params.config.model."


@pytest.mark.parametrize(
    ("case", "path", "value", "supported"),
    [
        (CASES[0], MODEL + "resblock_type", "ddpm", "'biggan'"),
        (CASES[0], MODEL + "progressive", "residual", "'none', 'output_skip'"),
        (CASES[0], MODEL + "progressive_input", "residual", "'none', 'input_skip'"),
        (CASES[1], MODEL + "progressive_combine", "mean", "'sum', 'cat'"),
        (CASES[0], MODEL + "scale_by_sigma", True, "`embedding_type` 'fourier'"),
        (CASES[0], MODEL + "embedding_type", "learned", "'positional', 'fourier'"),
        (CASES[0], MODEL + "conditional", False, "True"),
        (CASES[0], MODEL + "nonlinearity", "relu", "'swish'"),
        (CASES[0], MODEL + "normalization", "InstanceNorm++", "'GroupNorm'"),
        (CASES[0], MODEL + "attention_type", "linear", "'ddpm'"),
        (CASES[0], MODEL + "new_option", 1, "not supported"),
        (CASES[4], "encoder.params.sk_ratio", 0.0625, "0"),
        (CASES[4], "encoder.params.depth", 18, "50, 101, 152"),
        (CASES[0], "encoder.name", "lzn.model.vit.ViT", "'lzn.model.ncsnpp.NCSNPPEncoder'"),
        (CASES[0], "encoder_latent_flow.name", "lzn.latent_flow.Heun", "DPMSolverLatentFlow"),
        (CASES[0], "encoder_latent_flow.params", {"order": 2}, "{}"),
        (CASES[0], "losses", [{"name": "lzn.loss.l1.L1", "weight": 1}], "'lzn.loss.l2.L2'"),
        (CASES[4], "training.loss_weight", {"cross_entropy": 1.0, "prob": 0.5}, "one weight that is not 0"),
        (CASES[5], "decoder.params.num_classes", 0, "contradicts itself"),
        (CASES[0], "decoder.params.num_classes", 10, "lacks a `label_anchor`"),
        (CASES[5], "label_anchor.params.z_dim", 100, "contradicts itself"),
        (CASES[0], "encoder.params.config.data.image_size", 64, "contradicts itself"),
        (CASES[0], MODEL + "nf", "128", "wrong type"),
        (CASES[4], "training.assignment_loss_cut_off_step", None, "wrong type"),
        (CASES[0], "encoder_latent_flow", {}, "lacks `encoder_latent_flow.name`"),
        (CASES[0], "decoder.params.config", {}, "lacks `decoder.params.config.model`"),
    ],
)
def test_configs_that_are_not_supported_are_refused_by_name(layouts, case, path, value, supported):
    published = copy.deepcopy(layouts[case]["config"])
    set_at(published, path, value)
    with pytest.raises(ValueError) as error:
        converter.config_from_published(published)
    assert supported in str(error.value)
    if "supported" in str(error.value):
        assert path in str(error.value) and str(value) in str(error.value)


def test_options_of_a_config_arrive(layouts):
    published = copy.deepcopy(layouts["case_study_1_afhqcat"]["config"])
    for part in ("encoder", "decoder"):
        set_at(published, f"{part}.params.config.model.progressive_combine", "cat")
        set_at(published, f"{part}.params.config.model.skip_rescale", False)
    set_at(published, MODEL + "fir", False)
    set_at(published, MODEL + "scale_by_sigma", False)
    set_at(published, "training.recon_loss_coe", 3.0)
    config = converter.config_from_published(published)
    assert config.encoder_input_skip == config.decoder_input_skip == "cat"
    assert not config.encoder_skip_rescale and not config.decoder_skip_rescale and not config.decoder_scale_by_sigma
    assert config.decoder_fir_kernel is None and config.encoder_fir_kernel == [1, 3, 3, 1]
    assert config.reconstruction_weight == 3.0

    published = copy.deepcopy(layouts["case_study_2"]["config"])
    published["encoder"]["params"] |= {"depth": 101, "width_multiplier": 2}
    config = converter.config_from_published(published)
    assert (config.encoder_depths, config.encoder_widths) == ([3, 4, 23, 3], [128, 256, 512, 1024])


# --- Tiny checkpoints ----------------------------------------------------------------------------------------------------

TINY = [CASES[0], CASES[1], CASES[4], CASES[5]]  # one of each kind of network


@pytest.fixture(scope="module")
def tiny(layouts) -> dict[str, dict]:
    """For each kind of network its published config, our model and the trainer's checkpoint of the same weights.

    The averages are half the weights, so that no two tensors of a checkpoint are equal.
    """
    files = {}
    for case in TINY:
        published = tiny_published(layouts, case)
        torch.manual_seed(0)
        model = LZNModel(converter.config_from_published(published)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(0.1 * torch.randn_like(parameter))
        checkpoint = {"optimizer": {"state": {0: {"step": 2.0}}}, "lr_scheduler": {"last_epoch": 2}, "grad_scalar": {}}
        checkpoint |= {"epoch": 3, "iteration": 1234}
        for part, tensors in published_format.to_published(model.config, model.state_dict()).items():
            averages = [tensor / 2 for key, tensor in tensors.items() if key != "all_modules.0.W"]
            checkpoint[part] = {"model.module." + key: tensor for key, tensor in tensors.items()}
            if part == "decoder":
                buffer = {"model.module.sigmas": torch.linspace(50, 0.01, 1000, dtype=torch.float64)}
                checkpoint[part] = buffer | checkpoint[part]
            checkpoint[f"{part}_ema"] = {"decay": 0.999, "num_updates": 42, "shadow_params": averages}
        files[case] = {"published": published, "model": model, "checkpoint": checkpoint}
    return files


def copy_of(checkpoint: dict) -> dict:
    """A checkpoint whose dicts and lists may be changed."""
    return {
        key: dict(value)
        if "shadow_params" not in (value if isinstance(value, dict) else ())
        else value | {"shadow_params": list(value["shadow_params"])}
        for key, value in checkpoint.items()
        if isinstance(value, dict)
    } | {key: value for key, value in checkpoint.items() if not isinstance(value, dict)}


@pytest.mark.parametrize("case", TINY)
def test_there_and_back_again(tiny, case):
    config, state = tiny[case]["model"].config, tiny[case]["model"].state_dict()
    back = published_format.to_ours(config, published_format.to_published(config, state))
    assert set(back) == set(state)
    for name, tensor in state.items():
        assert torch.equal(back[name], tensor) and back[name].is_contiguous()

    few = dict(list(state.items())[::3])  # as gradients, of which some parameters have none
    back = published_format.to_ours(config, published_format.to_published(config, few))
    assert set(back) == set(few) and all(torch.equal(back[name], few[name]) for name in few)


def test_keys_of_another_model_and_halves_are_refused(tiny):
    config, state = tiny["case_study_3"]["model"].config, tiny["case_study_3"]["model"].state_dict()
    with pytest.raises(ValueError, match="unknown keys: decoder.stem"):
        published_format.to_published(config, {**state, "decoder.stem": torch.zeros(1)})
    published = published_format.to_published(config, state)
    published["decoder"]["stem"] = torch.zeros(1)
    with pytest.raises(ValueError, match="unknown published keys: decoder stem"):
        published_format.to_ours(config, published)
    del published["decoder"]["stem"], published["decoder"]["all_modules.4.NIN_1.W"]
    with pytest.raises(ValueError, match=r"qkv.weight` is made of .*NIN_0.W, .*NIN_1.W, .*NIN_2.W, which are not all"):
        published_format.to_ours(config, published)


def test_attention_computes_with_converted_weights_what_the_published_formula_does(tiny):
    """q = x W0 + b0, k = x W1 + b1, v = x W2 + b2, softmax(q.k / sqrt(C)) v W3 + b3, plus x, over sqrt(2)."""
    model, checkpoint = tiny["case_study_3"]["model"], tiny["case_study_3"]["checkpoint"]
    attention = model.encoder.blocks["down_16x16_block0"].attention
    assert isinstance(attention, AttentionBlock)
    prefix = "model.module.all_modules.2."
    published = {k.removeprefix(prefix): v for k, v in checkpoint["encoder"].items() if k.startswith(prefix)}
    x = torch.randn(2, 8, 4, 4)
    flat = torch.nn.functional.group_norm(
        x, 2, published["GroupNorm_0.weight"], published["GroupNorm_0.bias"], eps=1e-6
    )
    flat = flat.flatten(2).transpose(1, 2)
    q, k, v = (flat @ published[f"NIN_{i}.W"] + published[f"NIN_{i}.b"] for i in range(3))
    mixed = (q @ k.transpose(1, 2) / 8**0.5).softmax(-1) @ v @ published["NIN_3.W"] + published["NIN_3.b"]
    expected = (x + mixed.transpose(1, 2).view_as(x)) / 2**0.5
    with torch.no_grad():
        torch.testing.assert_close(attention(x), expected)


@pytest.mark.parametrize("case", TINY)
def test_converting_takes_the_weights_asked_for(tiny, case):
    model, checkpoint = tiny[case]["model"], tiny[case]["checkpoint"]
    raw = converter.convert(checkpoint, model.config, "raw")
    averaged = converter.convert(checkpoint, model.config)
    for name, tensor in model.state_dict().items():
        assert torch.equal(raw.state_dict()[name], tensor)
        trained = not name.endswith("time_embedding.frequencies")
        assert torch.equal(averaged.state_dict()[name], tensor / 2 if trained else tensor)
    assert not raw.training and raw.config is not model.config
    assert [p.requires_grad for p in raw.parameters()] == [p.requires_grad for p in model.parameters()]
    assert all(p.device.type == "cpu" for p in raw.parameters())


def test_other_floating_point_types_become_float32(tiny):
    checkpoint = copy_of(tiny["case_study_2"]["checkpoint"])
    checkpoint["encoder"] = {key: tensor.double() for key, tensor in checkpoint["encoder"].items()}
    model = converter.convert(checkpoint, tiny["case_study_2"]["model"].config, "raw")
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_averages_survive_weights_that_are_lost(tiny):
    """One infinite gradient makes every parameter of the published trainer NaN, but not the averages."""
    checkpoint = copy_of(tiny["case_study_3"]["checkpoint"])
    for part in ("encoder", "decoder", "label_anchor"):
        checkpoint[part] = {key: torch.full_like(tensor, torch.nan) for key, tensor in checkpoint[part].items()}
    config = tiny["case_study_3"]["model"].config
    assert all(p.isfinite().all() for p in converter.convert(checkpoint, config).parameters())
    with pytest.raises(ValueError, match="`label_anchor`: `model.module.anchor` has values that are NaN or infinite"):
        converter.convert(checkpoint, config, "raw")


# --- The command ---------------------------------------------------------------------------------------------------------


def write(folder: Path, files: dict) -> list[str]:
    """A checkpoint and its config; the flags to convert it to folder/out."""
    torch.save(files["checkpoint"], folder / "trainer.pt")
    (folder / "published.json").write_text(json.dumps(files["published"]))
    flags = {"checkpoint": "trainer.pt", "config": "published.json", "output_dir": "out"}
    return [word for name, file in flags.items() for word in (f"--{name}", str(folder / file))]


@pytest.fixture(scope="module")
def converted(tiny, tmp_path_factory) -> dict[str, Path]:
    folders = {}
    for case in ("case_study_1_afhqcat", "case_study_2", "case_study_3"):
        folder = tmp_path_factory.mktemp(case)
        converter.main(write(folder, tiny[case]))
        folders[case] = folder / "out"
    return folders


def test_a_folder_has_exactly_these_files(converted):
    """And is as readable as any new folder."""
    flat = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
    for case, folder in converted.items():
        pipeline = set() if case == "case_study_2" else {"model_index.json", "scheduler_config.json"}
        assert {path.name for path in folder.iterdir()} == flat | pipeline
        assert {path.name for path in folder.parent.iterdir()} == {"trainer.pt", "published.json", "out"}
        (folder.parent / "new").mkdir()
        assert folder.stat().st_mode == (folder.parent / "new").stat().st_mode
        assert LZNConfig.from_pretrained(folder).latent_solver == (
            "euler" if case == "case_study_2" else "dpmsolver++"
        )


def test_the_model_card_says_where_from_and_how_to_use(converted):
    cards = {case: (folder / "README.md").read_text() for case, folder in converted.items()}
    for card in cards.values():
        assert "| `published.json` | `trainer.pt` | 1234 | ema (moving averages) |" in card
        assert "set_reference_anchors(" in card and "{" not in card
    assert 'pipe(label="airplane"' in cards["case_study_3"] and "pipe.classify(" in cards["case_study_3"]
    assert "classify" not in cards["case_study_1_afhqcat"] and "pipe.reconstruct(" in cards["case_study_1_afhqcat"]
    assert "AutoModel.from_pretrained(" in cards["case_study_2"] and "40 x 40" in cards["case_study_2"]


def test_the_snippets_of_a_card_run_as_printed(converted, tmp_path, monkeypatch):
    """With images for the placeholders."""
    images = torch.rand(4, 3, 16, 16)
    for case, folder in converted.items():
        snippets = (folder / "README.md").read_text().split("```py\n")[1:]
        code = "\n".join(snippet.split("```")[0] for snippet in snippets)
        copied = tmp_path / case
        subprocess.run(["cp", "-r", str(folder), str(copied)], check=True)
        scope = {"images": images, "batches_of_training_images": [images, images]}
        exec(code.replace("path/to/this/folder", str(copied)), scope)
        assert scope["embeddings"].shape[0] == 4
        if case != "case_study_2":
            assert LZNPipeline.from_pretrained(copied).model.config.num_reference_anchors == 8


def test_the_log_names_what_is_dropped_once(tiny, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        converter.main(write(tmp_path, tiny["case_study_3"]))
    for line in (
        "optimizer: optimizer state is not carried over",
        "lr_scheduler: the state of the learning rate schedule is not carried over",
        "grad_scalar: the state of the gradient scaler is not carried over",
        "decoder: the buffer `sigmas` is not carried over, as nothing reads it",
        "encoder, decoder, label_anchor: the weights as trained are not carried over, but the moving averages",
    ):
        assert caplog.messages.count(line) == 1
    caplog.clear()
    with caplog.at_level(logging.INFO):
        converter.convert(tiny["case_study_3"]["checkpoint"], tiny["case_study_3"]["model"].config, "raw")
    averages = "encoder_ema, decoder_ema, label_anchor_ema: the moving averages are not carried over, but the weights as trained"
    assert averages in caplog.messages


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stop:
        converter.main(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    for word in (
        *CASES,
        "set_reference_anchors",
        "examples:",
        "optimizer",
        "ema",
        "raw",
        "LZNPipeline.from_pretrained",
    ):
        assert word in text


USE = """
import json, sys
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel
from lzn_hf import LZNPipeline

torch.manual_seed(0)
for folder, inputs, answers in json.loads(sys.argv[1]):
    given, got = load_file(inputs), {}
    with torch.no_grad():
        if "sample_noise" in given:
            pipe = LZNPipeline.from_pretrained(folder)
            pipe.set_progress_bar_config(disable=True)
            model, images = pipe.model, {"pixel_values": given["images"]}
            euler = {"solver": "euler", "t_min": 1e-3, "num_inference_steps": 10, "output_type": "pt"}
            got["generated"] = pipe(latents=given["latents"], sample_noise=given["sample_noise"], **euler).images
            got["embeddings"] = pipe.embed(images)
            got["anchors"] = model.get_image_anchors(given["images"])
            got["image_latents"] = model.get_image_latents(given["images"], noise=given["noise"])  # in this batch
            model.set_reference_anchors(got["anchors"])
            rk45 = {"solver": "rk45", "t_min": 1e-3, "output_type": "pt"}
            one = {"pixel_values": given["images"][:1]}
            got["reconstructed"] = pipe.reconstruct(one, **rk45).images
            if model.config.num_labels:
                ranking = pipe.classify(images, top_k=model.config.num_labels)
                got["scores"] = torch.tensor([[guess["score"] for guess in row] for row in ranking])
                got["log_probs"] = model.classify_latents(given["latents"])
                got["of_a_label"] = pipe(label=1, num_images_per_label=2, **euler).images
        else:
            model = AutoModel.from_pretrained(folder).eval()
            output = model(given["images"])
            got["embeddings"], got["anchors"] = output.embeddings, output.anchors
            processor = AutoImageProcessor.from_pretrained(folder)
            got["pixel_values"] = processor(given["images"][0] / 2 + 0.5, return_tensors="pt").pixel_values
    save_file({name: tensor.contiguous() for name, tensor in got.items()}, answers)
"""


def use(tmp_path: Path, jobs: dict[str, tuple[Path, dict[str, torch.Tensor]]]) -> dict[str, dict[str, torch.Tensor]]:
    """What a new process gets out of each folder with the given inputs."""
    arguments = []
    for name, (folder, inputs) in jobs.items():
        save_file({key: tensor.contiguous() for key, tensor in inputs.items()}, tmp_path / f"{name}_inputs")
        arguments.append([str(folder), str(tmp_path / f"{name}_inputs"), str(tmp_path / f"{name}_answers")])
    command = [sys.executable, "-c", USE, json.dumps(arguments)]
    env = {**os.environ, "PYTHONPATH": str(Path(lzn_hf.__file__).parents[1])}
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return {name: load_file(tmp_path / f"{name}_answers") for name in jobs}


def test_a_new_process_opens_the_folder_and_computes_the_same(tiny, converted, tmp_path):
    jobs = {}
    for case, folder in converted.items():
        size = tiny[case]["model"].config.image_size
        inputs = {"images": torch.rand(3, 3, size, size) * 2 - 1}
        if case != "case_study_2":
            inputs |= {"latents": torch.randn(3, 6), "noise": torch.randn(3, 6)}
            inputs["sample_noise"] = torch.randn(3, 3, size, size)
        jobs[case] = (folder, inputs)
    for case, got in use(tmp_path, jobs).items():
        model, inputs = converter.convert(tiny[case]["checkpoint"], tiny[case]["model"].config), jobs[case][1]
        with torch.no_grad():
            features, anchors = model.encoder(inputs["images"])
            torch.testing.assert_close(got["embeddings"], features)
            torch.testing.assert_close(got["anchors"], anchors)
            if case == "case_study_2":
                torch.testing.assert_close(got["pixel_values"], inputs["images"][:1], rtol=0, atol=1e-5)
                continue
            latents = model.get_image_latents(inputs["images"], noise=inputs["noise"])
            torch.testing.assert_close(got["image_latents"], latents)
            assert all(tensor.isfinite().all() for tensor in got.values())
            if case == "case_study_3":
                torch.testing.assert_close(got["log_probs"], model.classify_latents(inputs["latents"]))


# --- Bad input -----------------------------------------------------------------------------------------------------------


class Evil:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def bad_file(kind: str, folder: Path, checkpoint: dict) -> Path:
    path = folder / "bad.pt"
    if kind == "truncated":
        torch.save(checkpoint, path)
        path.write_bytes(path.read_bytes()[:-1000])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("<!DOCTYPE html>")
    elif kind == "bare pickle":
        torch.save(checkpoint, path, _use_new_zipfile_serialization=False)
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("notes.txt", "nothing")
    elif kind == "evil":
        torch.save(checkpoint | {"optimizer": Evil(folder / "evil was here")}, path)
    elif kind == "list":
        torch.save([torch.zeros(2)], path)
    elif kind == "state dict":
        torch.save({f"layer{i}.weight": torch.zeros(2) for i in range(7)}, path)
    return path


@pytest.mark.parametrize(
    ("kind", "messages"),
    [
        ("absent", ["is not there"]),
        ("truncated", ["is truncated", "Download or copy it again"]),
        ("empty", ["(0 bytes) is not a checkpoint"]),
        ("text", ["is not a checkpoint: it begins with b'<!DOCTYP'"]),
        ("bare pickle", ["is not a checkpoint: it begins with"]),
        ("zip", ["is a zip archive, but not one of torch.save", "notes.txt"]),
        ("evil", ["is refused", "can run any code", "open"]),
        ("list", ["is not a checkpoint of the trainer: it holds a list"]),
        ("state dict", ["holds a dict of layer0.weight, ", "layer4.weight and 2 more", "`encoder`"]),
    ],
)
def test_files_that_are_no_checkpoint_say_what_they_are(tiny, tmp_path, kind, messages):
    path = bad_file(kind, tmp_path, tiny["case_study_3"]["checkpoint"])
    before = set(tmp_path.iterdir())
    with pytest.raises(ValueError) as stop:
        converter.main(["--checkpoint", str(path), "--case", "case_study_3", "--output_dir", str(tmp_path / "out")])
    assert str(path) in str(stop.value)
    assert all(message in str(stop.value) for message in messages), stop.value
    assert set(tmp_path.iterdir()) == before  # no folder, and the evil code did not run


def full_size(layouts, case: str) -> dict:
    """A checkpoint of a published model that takes no memory: each tensor is one zero, seen from everywhere."""
    return {
        part: {key: torch.zeros(()).expand(shape) for key, shape in layout["tensors"]}
        for part, layout in layouts[case]["parts"].items()
    }


@pytest.mark.parametrize(
    ("case", "taken_for", "cases"),
    [
        ("case_study_1_cifar10", "case_study_3", "case_study_1_cifar10"),
        ("case_study_3", "case_study_1_cifar10", "case_study_3"),
        ("case_study_2", "case_study_3", "case_study_2"),
        ("case_study_1_celebahq", "case_study_1_cifar10", " or ".join(LARGE_CASES)),
    ],
)
def test_a_checkpoint_of_another_case_is_recognised(layouts, case, taken_for, cases):
    checkpoint = full_size(layouts, case)
    with pytest.raises(ValueError) as error:
        published_checkpoint.published_weights(checkpoint, converter.CASES[taken_for])
    assert f"These are the tensors of {cases}: pass that as `--case`" in str(error.value)
    for part, tensors in checkpoint.items():
        assert f"`{part}` ({len(tensors)} tensors)" in str(error.value)
    assert "\n" not in str(error.value)  # no list of hundreds of tensors


def test_a_checkpoint_that_is_nearly_of_a_case_says_so(layouts):
    checkpoint = full_size(layouts, "case_study_3")
    del checkpoint["label_anchor"]
    with pytest.raises(ValueError, match=r"`label_anchor` is missing\n(.|\n)*most like case_study_3, with 99 %"):
        published_checkpoint.published_weights(checkpoint, converter.CASES["case_study_3"], "raw")


def test_everything_that_does_not_fit_is_listed_in_one_message(tiny):
    checkpoint, config = copy_of(tiny["case_study_3"]["checkpoint"]), tiny["case_study_3"]["model"].config
    encoder, decoder, anchor = (checkpoint[part] for part in ("encoder", "decoder", "label_anchor"))
    prefix, num_averages = "model.module.", len(checkpoint["encoder_ema"]["shadow_params"])
    del encoder[prefix + "all_modules.0.bias"], checkpoint["decoder_ema"]
    encoder["all_modules.0.bias"] = torch.zeros(8)  # without the prefix
    encoder[prefix + "all_modules.1.Conv_0.bias"] = torch.zeros(9)
    decoder[prefix + "all_modules.2.weight"] = torch.zeros(8, 3, 3, 3, dtype=torch.int64)
    anchor[prefix + "anchor"] = "ten times six"
    checkpoint["label_anchor_ema"]["shadow_params"][0] = torch.full((10, 6), torch.inf)
    checkpoint["encoder_ema"]["shadow_params"].pop()
    checkpoint["discriminator"] = {}
    with pytest.raises(ValueError) as error:
        converter.convert(checkpoint, config)
    for problem in (
        "`discriminator` is unknown",
        "`encoder`: `model.module.all_modules.0.bias` (8,) is missing",
        "`encoder`: `all_modules.0.bias` is unknown",
        "`encoder`: `model.module.all_modules.1.Conv_0.bias` has shape (9,), but the config makes it (8,)",
        f"`encoder_ema` has {num_averages - 1} tensors, not {num_averages}",
        "`decoder`: `model.module.all_modules.2.weight` is not a tensor of floating point numbers",
        "`decoder_ema` is missing: use `--weights raw`",
        "`label_anchor`: `model.module.anchor` is not a tensor of floating point numbers",
        "`label_anchor_ema`: `model.module.anchor` has values that are NaN or infinite",
    ):
        assert f"\n  {problem}" in str(error.value)
    assert str(error.value).count("\n  ") == 9


def test_averages_of_another_shape_or_order_are_refused(tiny):
    """Their lists are unnamed: nothing but shape and order can tell that they are wrong."""
    checkpoint, config = (
        copy_of(tiny["case_study_1_afhqcat"]["checkpoint"]),
        tiny["case_study_1_afhqcat"]["model"].config,
    )
    shadows = checkpoint["decoder_ema"]["shadow_params"]
    shadows[0], shadows[2] = shadows[2], shadows[0]
    with pytest.raises(ValueError, match="`decoder_ema`: `model.module.all_modules.1.weight` has shape"):
        converter.convert(checkpoint, config)
    shadows[0], shadows[2] = shadows[2], shadows[0]
    converter.convert(checkpoint, config)
    shadows.insert(0, checkpoint["decoder"]["model.module.all_modules.0.W"])  # not trained, so not averaged
    with pytest.raises(ValueError, match=rf"`decoder_ema` has {len(shadows)} tensors, not {len(shadows) - 1}"):
        converter.convert(checkpoint, config)
    del shadows[0]
    checkpoint["decoder"] = dict(sorted(checkpoint["decoder"].items()))
    with pytest.raises(ValueError, match="`decoder` has its tensors in another order than the trainer"):
        converter.convert(checkpoint, config)
    converter.convert(checkpoint, config, "raw")


def test_a_config_that_contradicts_the_weights_is_refused(tiny, tmp_path):
    files = copy.deepcopy({"published": tiny["case_study_3"]["published"]}) | {
        "checkpoint": tiny["case_study_3"]["checkpoint"]
    }
    set_at(files["published"], "encoder.params.num_base_units", 9)
    with pytest.raises(ValueError) as stop:
        converter.main(write(tmp_path, files))
    taps = tiny["case_study_3"]["model"].encoder.taps
    lines = [line for line in str(stop.value).splitlines() if line.startswith("  `encoder`: ")]
    assert len(lines) == 3 * len(taps)  # weight and bias of the first linear layer, weight of the second
    assert "`model.module.latent_transformations.0.0.bias` has shape (8,), but the config makes it (9,)" in lines[1]


@pytest.mark.parametrize(
    ("flag", "message"), [(None, "use `--weights raw`"), ("ema", "use `--weights raw`"), ("raw", None)]
)
def test_without_averages_the_weights_as_trained_are_offered(tiny, tmp_path, flag, message):
    files = {**tiny["case_study_2"], "checkpoint": copy_of(tiny["case_study_2"]["checkpoint"])}
    del files["checkpoint"]["encoder_ema"]
    argv = write(tmp_path, files) + ([] if flag is None else ["--weights", flag])
    if message is None:
        converter.main(argv)
        assert "raw (as trained)" in (tmp_path / "out" / "README.md").read_text()
    else:
        with pytest.raises((ValueError, OSError), match=message):
            converter.main(argv)


def test_only_a_new_or_empty_folder_is_written_to(tiny, tmp_path, monkeypatch):
    argv = write(tmp_path, tiny["case_study_2"])
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    monkeypatch.setattr(converter, "load_checkpoint", None)  # it is found out before anything is read
    with pytest.raises(
        (ValueError, OSError), match="is not empty: it holds thesis.tex. Name a new folder, or empty it"
    ):
        converter.main(argv)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]
    with pytest.raises((ValueError, OSError), match="is a file"):
        converter.main([*argv[:-1], str(out / "thesis.tex")])
    monkeypatch.undo()
    (out / "thesis.tex").unlink()
    converter.main(argv)
    assert (out / "model.safetensors").is_file()


def test_a_write_that_fails_leaves_nothing_behind(tiny, tmp_path, monkeypatch):
    def full(self, folder):
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise OSError("No space left on device")

    argv = write(tmp_path, tiny["case_study_3"])
    before = set(tmp_path.iterdir())
    monkeypatch.setattr(LZNPipeline, "save_pretrained", full)
    with pytest.raises((ValueError, OSError), match="No space left on device"):
        converter.main(argv)
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [("{not json", "cannot be read as JSON"), ("[1]", "must be a JSON object"), ("{}", "lacks `encoder.name`")],
)
def test_configs_that_are_none_are_refused(tiny, tmp_path, text, message):
    argv = write(tmp_path, tiny["case_study_3"])
    (tmp_path / "published.json").write_text(text)
    with pytest.raises((ValueError, OSError), match=message):
        converter.main(argv)


@pytest.mark.parametrize("flags", [[], ["--case", "case_study_3", "--config", "x.json"], ["--case", "case_study_4"]])
def test_case_or_config(flags):
    with pytest.raises(ValueError, match="--case"):
        converter.main(["--checkpoint", "x.pt", "--output_dir", "out", *flags])


def test_mistakes_end_the_script_with_one_line(tmp_path):
    flags = ["--checkpoint", str(tmp_path / "x.pt"), "--case", "case_study_3", "--output_dir", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, converter.__file__, *flags]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: ") and "x.pt" in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(ValueError, match="unknown flag --wieghts; did you mean --weights[?]"):
        converter.main([*flags, "--wieghts", "raw"])


# --- The published code's own numbers ------------------------------------------------------------------------------------


@needs_golden
def test_converted_golden_checkpoints_reproduce_the_published_numbers(tmp_path):
    golden, jobs, expected = Path(PUBLISHED_DIR), {}, {}
    for name in ("cs1_tiny", "cs2_tiny", "cs3_tiny"):
        numbers = load_file(golden / f"{name}_outputs.safetensors")
        for weights, prefix in (("ema", "ema/"), ("raw", "")):
            published = json.loads((golden / f"{name}.config.json").read_text())
            inputs = {"images": numbers["in/data"][:, 0] if name == "cs2_tiny" else numbers["in/images"]}
            published["image_size"] = inputs["images"].shape[-1]  # of the ResNet, which has none
            (tmp_path / "published.json").write_text(json.dumps(published))
            folder = tmp_path / f"{name}_{weights}"
            flags = {"checkpoint": golden / f"{name}.pt", "config": tmp_path / "published.json", "output_dir": folder}
            flags["weights"] = weights
            converter.main([word for flag, value in flags.items() for word in (f"--{flag}", str(value))])
            if name != "cs2_tiny":
                latents = numbers[f"{prefix}latent_from_data"][:4]
                inputs |= {"latents": latents, "noise": numbers["in/prior"], "sample_noise": numbers["sampler/x0"]}
            jobs[folder.name], expected[folder.name] = (folder, inputs), (prefix, numbers)

    for name, got in use(tmp_path, jobs).items():
        prefix, numbers = expected[name]
        if name.startswith("cs2"):
            torch.testing.assert_close(got["embeddings"], numbers[f"{prefix}encoder/no_head_view0"], rtol=0, atol=1e-5)
            torch.testing.assert_close(got["anchors"], numbers[f"{prefix}encoder/head_view0"], rtol=0, atol=6e-5)
            continue
        torch.testing.assert_close(got["anchors"], numbers[f"{prefix}encoder/anchor"], rtol=0, atol=2e-5)
        latents = numbers[f"{prefix}latent_from_data"]  # with the float32 noise of the published flow
        torch.testing.assert_close(got["image_latents"], latents, rtol=0, atol=3e-3)
        if name.startswith("cs1") or name == "cs3_tiny_raw":
            key = "sampler/euler10_pred_label" if name.startswith("cs3") else f"{prefix}sampler/euler10"
            images = (numbers[key] / 2 + 0.5).clamp(0, 1)
            torch.testing.assert_close(got["generated"], images, rtol=0, atol=3e-4)
        if name.startswith("cs3"):
            labels = numbers["ema/label/pred" if prefix else "label/from_data/pred"]
            assert torch.equal(got["log_probs"].argmax(-1), labels[:4])
            torch.testing.assert_close(got["scores"].sum(1), torch.ones(8))
            assert got["of_a_label"].shape == (2, 3, 32, 32)
        image = jobs[name][1]["images"][:1] / 2 + 0.5
        assert (got["reconstructed"] - image).abs().max() < 0.05  # published: 0.005 and 0.044, of another run
        assert got["embeddings"].shape == (8, 32)


if __name__ == "__main__":
    text = json.dumps(compact_layouts(Path(sys.argv[1])), separators=(",", ":"))
    LAYOUTS.write_bytes(lzma.compress(text.encode(), preset=9))
    print(f"{LAYOUTS}: {LAYOUTS.stat().st_size:,} bytes")

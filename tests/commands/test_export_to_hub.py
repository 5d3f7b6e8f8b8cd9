# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The real script and a Hub of the loopback interface: what is pushed opens with and without the package, online and from the cache."""

from __future__ import annotations

import pytest
import torch
import yaml
from helpers import ROOT
from helpers.hub import local_hub, run_with_hub
from helpers.pipelines import make_pipeline, seeded
from huggingface_hub import ModelCard
from PIL import Image

from lzn_hf import LZNPipeline
from lzn_hf.commands import export_to_hub
from lzn_hf.evaluation.cards import PICTURES, make_model_card
from lzn_hf.evaluation.sharing import code_files


SCRIPT = ROOT / "utils" / "export_to_hub.py"
SCRIPTS = f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import export_to_hub\n"
NAMES = ['the "first"', "it's", "back\\slash", "ünï: #4", "five"]  # that YAML and Python must quote
# A process in which neither package can be imported.
ALONE = """
import sys
sys.modules["lzn_hf"] = sys.modules["diffusers"] = None
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

image = Image.open("image.png")
model = AutoModel.from_pretrained("me/pipe", trust_remote_code=True).eval()
processor = AutoImageProcessor.from_pretrained("me/pipe", trust_remote_code=True)
classifier = AutoModelForImageClassification.from_pretrained("me/pipe", trust_remote_code=True).eval()
inputs = processor(image, return_tensors="pt")
answers = {
    "embedding": model.get_image_features(**inputs).detach(),
    "probabilities": classifier(**inputs).logits.exp().detach(),
    "images": model.generate(label=[3, "five"], generator=torch.Generator().manual_seed(0), output_type="pt"),
}
if sys.argv[2:] == ["online"]:
    infer = pipeline(model="me/pipe", trust_remote_code=True)
    assert infer.task == "image-classification", infer.task
    answers["scores"] = {entry["label"]: entry["score"] for entry in infer(image, top_k=5)}
torch.save(answers, sys.argv[1])
"""
TOGETHER = """
import builtins, sys


def refuse(*question):
    raise SystemExit(f"asked {question}")


builtins.input = refuse
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import model_info
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, pipeline
import lzn_hf

image, answers = Image.open("image.png"), {}
for opener in (lzn_hf.LZNPipeline, DiffusionPipeline):
    pipe = opener.from_pretrained("me/pipe")
    assert type(pipe) is lzn_hf.LZNPipeline
    pipe.set_progress_bar_config(disable=True)
    answers["embedding"] = pipe.embed(image)
    answers["scores"] = {entry["label"]: entry["score"] for entry in pipe.classify(image)[0]}
    arguments = {"generator": torch.Generator().manual_seed(0), "solver": "heun", "output_type": "pt"}
    answers["images"] = pipe(label=[3, "five"], **arguments).images
assert type(AutoModel.from_pretrained("me/pipe")) is lzn_hf.LZNModel
assert type(AutoImageProcessor.from_pretrained("me/pipe")) is lzn_hf.LZNImageProcessor
classify = pipeline("image-classification", model="me/pipe")
if sys.argv[2:] == ["online"]:
    classify = pipeline(model="me/pipe")
    assert type(classify.model) is lzn_hf.LZNForImageClassification
    info = model_info("me/pipe")
    assert info.pipeline_tag == "image-classification" and "lzn" in info.tags, info
    (result,) = info.eval_results
    assert (result.dataset_id, result.task_id, result.value) == ("me/toys", "accuracy", 0.875), result
answers["theirs"] = {entry["label"]: entry["score"] for entry in classify(image, top_k=5)}
torch.save(answers, sys.argv[1])
"""


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """A Hub after a push, the folder of the run that was pushed, and its pipeline."""
    folder = tmp_path_factory.mktemp("pushed")
    pipe = make_pipeline(names=NAMES)
    run = folder / "outputs" / "toys"
    pipe.save_pretrained(run)
    make_model_card(
        pipe.model.config,
        model_id="outputs/toys",
        dataset="toys",
        metrics={"validation_accuracy": 0.875},
        settings={"training": {"seed": 3}},
        parameters=pipe.model.num_parameters(),
        pictures=PICTURES,
        hub_dataset="me/toys",
    ).save(run / "README.md")
    for name in ("samples.png", "zones.png", "curves.png"):
        Image.new("L", (20, 12), 40).save(run / name)
    for name in ("metrics.jsonl", "data_summary.json", "checkpoint-2/model.safetensors", "checkpoint-2/config.json"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("not for others")
    Image.linear_gradient("L").resize((9, 8)).save(folder / "image.png")
    before = sorted(run.rglob("*"))
    with local_hub() as hub:
        flags = ["outputs/toys", "--push_to_hub", "me/pipe", "--license", "cc-by-4.0", "--private"]
        run_with_hub(SCRIPT, hub, folder, *flags)
        assert sorted(run.rglob("*")) == before
        yield hub, folder, pipe


def test_what_is_uploaded(pushed):
    hub, _, _ = pushed
    repository = hub.repositories["me/pipe"]
    assert repository.private and repository.messages == ["Upload the model"]
    model = {"config.json", "model.safetensors", "preprocessor_config.json", "scheduler_config.json"}
    others = {"model_index.json", "README.md", "samples.png", "zones.png", "curves.png", ".eval_results/me--toys.yaml"}
    examples = {f"examples/{number}.png" for number in range(4)}
    code = {path.name for path in code_files()}
    assert set(repository.files) == model | others | examples | code
    assert {"modeling_lzn.py", "image_processing_lzn.py", "generation_lzn.py", "latent_zones.py"} <= code
    assert not {name for name in code if name.startswith(("pipeline_", "sampling_"))}  # diffusers' part stays out


def test_the_card_on_the_hub(pushed):
    hub, _, _ = pushed
    content = hub.repositories["me/pipe"].files["README.md"].decode()
    card = ModelCard(content)
    assert (card.data.license, card.data.model_name, card.data.datasets) == ("cc-by-4.0", "pipe", ["me/toys"])
    assert [example["example_title"] for example in card.data["widget"]] == NAMES[:4]
    assert all(example["src"] in hub.repositories["me/pipe"].files for example in card.data["widget"])
    assert "outputs/toys" not in content and '"me/pipe", trust_remote_code=True' in content
    assert "\n# pipe\n" in content and "| seed | `3` |" in content and "validation accuracy: 0.8750" in content
    assert content.index("## How to use") < content.index("## Without lzn_hf") < content.index("## Intended use")
    (entry,) = yaml.safe_load(hub.repositories["me/pipe"].files[".eval_results/me--toys.yaml"])
    assert entry["dataset"] == {"id": "me/toys", "task_id": "accuracy"} and entry["value"] == 0.875


@pytest.mark.parametrize("code", [ALONE, TOGETHER], ids=["alone", "together"])
def test_it_opens_online_and_from_the_cache(pushed, code):
    hub, folder, pipe = pushed
    image = Image.open(folder / "image.png")
    expected = {entry["label"]: entry["score"] for entry in pipe.classify(image)[0]}
    images = pipe(label=[3, "five"], generator=seeded(), solver="heun", output_type="pt").images
    for way, offline in (("online", "0"), ("cache", "1")):
        run_with_hub(code, hub, folder, f"{way}.pt", way, HF_HUB_OFFLINE=offline)
        answers = torch.load(folder / f"{way}.pt", weights_only=True)
        torch.testing.assert_close(answers["embedding"], pipe.embed(image))
        assert torch.equal(answers["images"], images)
        if "probabilities" in answers:
            assert dict(zip(NAMES, answers["probabilities"][0].tolist(), strict=True)) == pytest.approx(expected)
        for kind in {"scores", "theirs"} & answers.keys():
            assert answers[kind] == pytest.approx(expected, abs=1e-4), kind


def test_a_second_push_replaces_weights_of_another_sharding(pushed):
    _, folder, pipe = pushed
    pipe.save_pretrained(folder / "sharded", max_shard_size="100KB")
    with local_hub() as hub:
        hub.can_check = False  # like mirrors of the Hub that do not know who may write: the upload will show
        pushes = ["outputs/toys", "--push_to_hub", "again"], "sharded --push_to_hub me/again --output_dir new".split()
        run_with_hub(f"{SCRIPTS}for argv in {pushes}:\n    export_to_hub.main(argv)\n", hub, folder)
        repository = hub.repositories["me/again"]
    assert len(repository.messages) == 2 and not repository.private
    assert "model.safetensors" not in repository.files and "model.safetensors.index.json" in repository.files
    assert repository.files["README.md"] == (folder / "new" / "README.md").read_bytes()
    assert b'from_pretrained("me/again")' in repository.files["README.md"]
    assert "license" not in ModelCard(repository.files["README.md"].decode()).data.to_dict()


REFUSALS = """
import os

for token, name in (("hf_bad", "new"), ("hf_good", "taken"), ("hf_good", "broken")):
    os.environ["HF_TOKEN"] = token
    try:
        export_to_hub.main(["outputs/toys", "--push_to_hub", f"me/{name}"])
    except OSError as error:
        print("REFUSED", type(error).__name__, str(error).splitlines()[0])
"""


def test_refusals_of_the_hub_say_what_to_do(pushed):
    _, folder, _ = pushed
    with local_hub() as hub:
        hub.refused_tokens, hub.read_only, hub.refused_commits = {"hf_bad"}, {"me/taken"}, {"me/broken"}
        said = run_with_hub(SCRIPTS + REFUSALS, hub, folder)
    bad, taken, broken = [line for line in said.splitlines() if line.startswith("REFUSED")]
    assert "PermissionError the Hub does not let you write to 'me/new' (401). Log in by `hf auth login`" in bad
    assert "PermissionError the Hub does not let you write to 'me/taken' (403)" in taken
    assert "ConnectionError" in broken and "failed on 'me/broken'" in broken


# Without a Hub


def test_without_flags_the_folder_itself_is_completed(tmp_path, capsys):
    make_pipeline(names=[]).model.save_pretrained(tmp_path / "model")
    weights = (tmp_path / "model" / "model.safetensors").stat()
    export_to_hub.main([str(tmp_path / "model")])
    assert {"README.md", "model_index.json", "modeling_lzn.py", "samples.png"} <= {
        path.name for path in (tmp_path / "model").iterdir()
    }
    assert (tmp_path / "model" / "model.safetensors").stat().st_ino == weights.st_ino
    pipe = LZNPipeline.from_pretrained(tmp_path / "model")
    grid = Image.open(tmp_path / "model" / "samples.png")
    assert len(pipe(num_images_per_label=1, num_inference_steps=1).images) == 1 and grid.width == grid.height
    assert [path.name for path in tmp_path.iterdir()] == ["model"]  # nothing temporary is left


def test_help_teaches(capsys):
    with pytest.raises(SystemExit, match="0"):
        export_to_hub.main(["--help"])
    printed = capsys.readouterr().out
    for text in ("--push_to_hub me/lzn-digits --license mit", "trust_remote_code=True", "--dataset_id ID"):
        assert text in printed


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("no/such/folder", "`folder` must be the folder of a saved model, but there is no folder .*no/such/folder"),
        ("{empty}", "no config.json of a model"),
        ("{model} --private", "`--private` is for the repository of `--push_to_hub`"),
        ("{model} --license Apache", "`license` must be an identifier of the Hub in lower case"),
        ("{model} --output_dir {parent}", "`output_dir` must be a folder that is new or empty"),
        ("{model} --licence mit", "unknown flag --licence; did you mean --license"),
        ("{model} --dataset_id a/b/c", "a/b/c"),
        ("{model} --push_to_hub me/x", "offline mode is enabled"),
    ],
)
def test_errors_leave_nothing_behind(tmp_path, argv, message):
    (tmp_path / "empty").mkdir()
    make_pipeline().model.save_pretrained(tmp_path / "model")
    before = sorted(tmp_path.rglob("*"))
    places = {"empty": tmp_path / "empty", "model": tmp_path / "model", "parent": tmp_path}
    with pytest.raises((ValueError, OSError), match=message):
        export_to_hub.main(argv.format(**places).split())
    assert sorted(tmp_path.rglob("*")) == before

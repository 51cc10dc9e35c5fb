"""Students of timm, torchvision and a user's file, from a run through every command and the Hub, and back."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard
from PIL import Image
from support.foreign import NETWORKS
from support.hub_client import Client
from support.hub_server import LocalHub
from support.runs import DIGITS_TEACHER, same_weights

from overhaul import hub
from overhaul.hub.export import export
from overhaul.options import DataOptions, Run
from overhaul.recipe import Net
from overhaul.training.evaluation import evaluate_source
from overhaul.training.prediction import predict
from overhaul.training.trainer import train

NETS = {
    "timm": Net(family="timm:resnet10t"),
    "torchvision": Net(family="torchvision:squeezenet1_1"),
    "file": Net(family="my_net.py:make_net", kwargs={"width": 6}),
}
PAIR = {
    "weight": 0.5,
    "student": {"module": "a|b.bn", "stride": 4, "channels": 8, "height": 8, "width": 8, "activation": "relu"},
    "teacher": {"module": "layer1", "stride": 4, "channels": 64, "height": 8, "width": 8, "activation": "silu"},
}
PAIR["student"]["resized"], PAIR["teacher"]["margin"] = True, "layer1.1.bn2"


@pytest.fixture(scope="module", params=NETS)
def run(request, tmp_path_factory, few_digits) -> SimpleNamespace:
    """A run that trained a student alone for an epoch: .kind, .folder, .net that names it, .student."""
    root, net = tmp_path_factory.mktemp(request.param), NETS[request.param]
    (root / "my_net.py").write_text(NETWORKS)
    family = net.family.replace("my_net", f"{root}/my_net")
    setup = replace(DIGITS_TEACHER, image_size=32, epochs=1, student=replace(net, family=family))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        folder = train(setup, Run(output_dir=str(root / "run"), data_path=few_digits)).folder
    named = Net(family=family) if request.param == "file" else None
    student = hub.load(str(folder / "final"), named)
    return SimpleNamespace(kind=request.param, folder=folder, net=named, student=student, root=root)


def with_pairs(folder) -> None:
    record = json.loads((folder / "overhaul.json").read_text())
    (folder / "overhaul.json").write_text(json.dumps({**record, "positions": [PAIR]}))


def test_pushed_and_pulled(run, tmp_path):
    with_pairs(run.folder)
    with LocalHub(tmp_path / "repositories") as local:
        client = Client(local, tmp_path / "home")
        pushed, pulled = client(["push", run.folder, "me/it"], ["pull", "me/it", "--out", tmp_path / "pulled"])
        files = local.files("me/it")
    assert pushed.status == pulled.status == 0, pushed.err + pulled.err
    assert same_weights(hub.load(str(tmp_path / "pulled"), run.net), run.student)
    assert ("loading it needs --net FILE.py:FUNCTION" in pulled.err) == (run.kind == "file")
    card, record = ModelCard(files["README.md"].decode()), json.loads(files["overhaul.json"])
    assert str(run.root) not in card.content + files["config.json"].decode() + json.dumps(record)
    assert (card.data.library_name, card.data.license) == ("timm" if run.kind == "timm" else "overhaul", "mit")
    assert (
        "| 0.5 | `a b.bn`, /4, 8 x 8 x 8, relu, resized | `layer1`, /4, 64 x 8 x 8, silu | layer1.1.bn2 |" in card.text
    )
    words = {
        "timm": ("resnet10t (timm), 4.9", "With timm:\n", "As a teacher: `overhaul train --setup SETUP"),
        "torchvision": (
            "squeezenet1_1 (torchvision)", "import overhaul.timm_models", "models.squeezenet1_1(num_classes=10)"
        ),
        "file": ("make_net width 6 (my_net.py)", 'overhaul.load("me/it", net="my_net.py:make_net")'),
    }[run.kind]  # fmt: skip
    assert all(word in card.text for word in words), card.text
    assert ("pipeline(" in card.text) == (run.kind != "file")
    assert ("import overhaul.timm_models" in card.text) == (run.kind == "torchvision")


@pytest.mark.parametrize("form", ["safetensors", "pt2", pytest.param("onnx", marks=pytest.mark.slow)])
def test_exported(run, tmp_path, form):
    source = replace(run.net or Net(), weights=str(run.folder))
    answer = export(source, form, tmp_path / f"it.{form}")
    assert answer["size"] == 32 and answer["difference"] <= 1e-4
    if form == "safetensors":
        whole = replace(NETS[run.kind], family=run.net.family if run.net else NETS[run.kind].family)
        assert same_weights(hub.load(answer["file"], whole), run.student)


def test_evaluated_and_predicted(run, few_digits, tmp_path):
    source = replace(run.net or Net(), weights=str(run.folder))
    found = evaluate_source(source, few_digits, DataOptions(), None, None, False)
    last = json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert found["top1"] == pytest.approx(last["test_top1"])
    Image.new("RGB", (40, 40), (200, 30, 90)).save(tmp_path / "image.png")
    assert len(predict(source, [str(tmp_path / "image.png")], 3, None, None)[0]["classes"]) == 3

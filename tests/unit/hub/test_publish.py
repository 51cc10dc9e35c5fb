"""Students pushed to the Hub and taken back from it, by us and by others."""

import errno
import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from matplotlib.axes import Axes
from support.hub_client import Client
from support.hub_server import TOKEN, Fault, LocalHub
from support.runs import SMALL_NET, flags, same_weights, teaching

from overhaul import catalogue, models
from overhaul.hub import card, publish, students, weights
from overhaul.hub import config as student_config
from overhaul.options import Run
from overhaul.report import plots
from overhaul.run.folder import RunFolder
from overhaul.setups import SETUPS
from overhaul.system import markdown
from overhaul.training import record

FILES = {"config.json", "model.safetensors", "README.md", "overhaul.json", "metrics.jsonl", "curves.png"}


@pytest.fixture
def student(finished) -> Path:
    """The folder of a run that distilled a student of the digits for two epochs."""
    return finished.folder


@pytest.fixture
def hub(tmp_path):
    with LocalHub(tmp_path / "repositories") as hub:
        yield hub


@pytest.fixture
def client(hub, tmp_path):
    return Client(hub, tmp_path / "home")


def test_a_push_is_one_commit_tagged_with_the_accuracy_and_nothing_is_sent_twice(student, hub, client, tmp_path):
    push = ["push", student, "me/digits"]
    first, again, best, pulled, taken, evaluated, asked = client(
        push, push, [*push, "--best"], ["pull", "me/digits", "--out", tmp_path / "pulled"],
        ["pull", "me/digits", "--out", tmp_path / "pulled"], ["evaluate", "me/digits", "--data", "digits", "--json"],
        ["evaluate", student / "best", "--data", "digits", "--json"],
    )  # fmt: skip
    assert first.status == 0, first.err
    line = json.loads((student / "metrics.jsonl").read_text().splitlines()[-1])
    assert hub.messages("me/digits")[1] == f"Final student, epoch 2: test top-1 {line['test_top1']:.2f} %"
    _, (sha, _, _), (best_sha, best_message, _) = hub.repositories.find("me/digits").commits
    tags = {f"top1-{line['test_top1']:.2f}": sha, f"top1-{best_message.split()[-2]}": best_sha}
    assert hub.tags("me/digits") == tags and sha in first.out and sha in again.out and best_sha in best.out
    assert set(hub.files("me/digits", sha)) - {".gitattributes"} == FILES
    assert hub.files("me/digits", sha)["model.safetensors"] == (student / "final" / "model.safetensors").read_bytes()
    assert len(hub.uploads) == len(set(hub.uploads)) and again.status == best.status == 0
    assert pulled.status == 0 and hub.repositories.find("me/digits").resolve("main") in pulled.out
    assert {path.name for path in (tmp_path / "pulled").iterdir()} == FILES
    assert same_weights(weights.load(str(tmp_path / "pulled")), weights.load(str(student / "best")))
    assert taken.status == 2 and "is in use" in taken.err
    assert evaluated.status == 0 and json.loads(evaluated.out) == json.loads(asked.out)


def test_the_card_and_the_record(student, digits_teacher, tmp_path):
    (tmp_path / "made").mkdir()
    publish.make_repository(RunFolder(student), student / "final", tmp_path / "made", "me/digits", "final")
    read = ModelCard.load(tmp_path / "made" / "README.md")
    told = json.loads((tmp_path / "made" / "overhaul.json").read_text())
    last, best = told["final"], told["best"]
    found = {result.metric_name: result.metric_value for result in read.data.eval_results}
    assert found["top-1 accuracy, percent"] == pytest.approx(last["test_top1"], abs=1e-4)
    assert read.data.pipeline_tag == "image-classification" and read.data.license == "mit"
    assert read.data.library_name == "overhaul" and read.data.model_name == "digits"
    for words in (
        f"| this run, epoch 2 | {100 - last['test_top1']:.2f} | {100 - last['test_top5']:.2f} | final |",
        f"| {100 - best['test_top1']:.2f} | {100 - best['test_top5']:.2f} | best |",
        "wide_resnet depth 10 width 1, 0.08 M parameters, distilled from wide_resnet depth 10 width 2, ",
        'overhaul.load("me/digits")', 'timm.create_model("hf-hub:me/digits", pretrained=True)', 'model="me/digits"',
        "import overhaul.timm_models", "| seed | 0 |", "| epochs | 2 |", "| lr | 0.05 |", "1 x cpu",
        "## Limits", "## Licence", "@inproceedings{heo2019",
        told["teacher"]["sha256"],
    ):  # fmt: skip
        assert words in read.content, words
    assert told["teacher"]["source"] == "run" and told["teacher"]["test_top1"] > 0
    assert str(student.parent) not in read.content + json.dumps(told), "no folder of this machine"
    assert re.fullmatch(r"1,437 images of 10 classes, labels \w{8}", told["data"]["training_images"])
    assert told["versions"]["torch"] in torch.__version__


@pytest.mark.parametrize(("row", "of_paper"), [("cifar_c", "24.08"), ("imagenet_a", "5.83")])
def test_the_card_shows_the_published_errors(student, row, of_paper):
    setup = SETUPS[row]
    told, metrics = RunFolder(student).read()
    teacher = {**told["teacher"], **record.describe(setup.teacher), "revision": "c0ffee", "source": "me/teacher"}
    data = {**told["data"], "name": setup.data, "hub_id": "me/images", "revision": "abc123"}
    told |= {"setup": row, "published": asdict(setup.published), "student": record.describe(setup.student)}
    told |= {"teacher": teacher, "data": data}
    config = student_config.student_config(setup, ["x"] * setup.student.kwargs["num_classes"])
    text = card.render(told, metrics, config, "me/student", "final", setup.epochs)
    assert of_paper in text and "dataset_revision" not in text and "revision: abc123" in text
    assert f"Published: {setup.epochs} epochs, as here." in text and "me/teacher at c0ffee" in text
    assert ("import overhaul.timm_models" in text) == (row == "cifar_c")
    assert "they are not comparable" in card.render(told, metrics, config, "me/student", "final", 3)
    change = {"after_epoch": 2, "and_steps": 5, "epochs_before": 3, "epochs": setup.epochs}
    longer = card.render({**told, "changes_of_length": [change]}, metrics, config, "me/student", "final", setup.epochs)
    assert f"| changed after epoch 2 and 5 steps | epochs from 3 to {setup.epochs} |" in longer
    assert "after its length was changed: they are not comparable" in longer


@pytest.mark.parametrize(
    ("licence", "told", "words"),
    [
        ("mit", "mit", "whose licence they have: mit."),
        (
            "cc-by-nc-4.0",
            "cc-by-nc-4.0",
            "started from those of timm/x.y, whose licence they have: cc-by-nc-4.0.",
        ),
        ("fastvit-license", "other", "whose licence they have: fastvit-license."),
        ("unknown", "unknown", "see the weights it started from for their licence"),
    ],
)
def test_the_licence_of_a_student_is_that_of_the_weights_that_it_started_from(student, licence, told, words):
    record, metrics = RunFolder(student).read()
    started = hub_weights(licence)
    files = students.student_files(models.create(SMALL_NET), SETUPS["digits"], list("0123456789"), started)
    config = json.loads(files["config.json"])
    assert config["pretrained_cfg"]["license"] == licence
    record["student"]["started_from"] = {"source": "timm/x.y", "revision": "c0ffee", "sha256": "abc"}
    read = ModelCard(card.render(record, metrics, config, "me/student", "final", 2))
    assert read.data.license == told and words in read.text
    assert read.data.to_dict().get("license_name") == (licence if told == "other" else None)


def hub_weights(licence: str) -> weights.Weights:
    known = None if licence == "unknown" else licence
    return weights.Weights(SMALL_NET, {}, {}, "timm/x.y", Path("x"), licence=known)


@pytest.mark.parametrize(
    ("text", "safe"),
    [("a_b wide_resnet", "a_b wide_resnet"), ("_x_", r"\_x\_"), ("a|b*[c](d)<e>`f`", r"a\|b\*\[c\](d)\<e\>\`f\`")],
)
def test_names_in_a_card_are_no_markdown(text, safe):
    assert markdown.escaped(text) == safe


HOSTILE = "a|b\n# c\x1b[2J\u202e\u2066\u200f <script> **d** $x^$ [e](f) `g`"


def test_nothing_that_a_user_names_is_markdown_html_or_moves_a_cursor_in_a_card(student):
    """The data, the source of the teacher, the machine and a function of a file, in text, tables and metadata."""
    record, metrics = RunFolder(student).read()
    config = student_config.read_config(student / "final" / "config.json")
    record["data"] |= {"name": HOSTILE, "hub_id": None, "local_copy": True, "training_images": HOSTILE}
    record["teacher"] |= {"source": HOSTILE, "family": "`x`\u202e.py:make", "kwargs": {}}
    record["student"] |= {"family": 'x"`.py:make', "kwargs": {}}
    record["run"] |= {"hardware": HOSTILE, HOSTILE: HOSTILE}
    record["positions"][0]["student"]["module"] = "a`b|c\x1b\n"
    text = card.render(record, metrics, config, "me/student", "final", 2)
    assert all(letter.isprintable() for letter in text.replace("\n", ""))
    body = ModelCard(text).text
    for words in ("<script>", "\n# c", "**d**", "[e]", "a | b", "a|b", "$x^$"):
        assert not re.search(rf"(?<!\\){re.escape(words)}", body), words
    rows = [line for line in body.splitlines() if line.startswith("| ") and "training images" in line]
    assert len(rows) == 1 and len(re.findall(r"(?<!\\)\|", rows[0])) == 3
    assert 'network = overhaul.load("me/student", net="x  .py:make")' in body
    assert plots.draw(metrics, markdown.unescaped(card.title(record))).startswith(b"\x89PNG")


NEW = ("classes", "images", "test_split")  # entries of a record's data


@pytest.mark.parametrize(
    ("data", "words", "told"),
    [
        ({"name": "imagenet", "hub_id": "ILSVRC/imagenet-1k", "test_split": "validation"}, "on ImageNet", "validation"),
        ({"name": "me/birds", "hub_id": "me/birds", "test_split": "valid"}, "on me/birds", "valid"),
        (
            {"name": "imagenet", "hub_id": None, "local_copy": True, "test_images": None},
            "on imagenet (3 classes, ",
            "dev",
        ),
    ],
)
def test_the_data_of_a_card_are_those_that_were_used(student, data, words, told):
    """The Hub's sets, and a folder that merely has a set's name; a record of an earlier release too."""
    record, metrics = RunFolder(student).read()
    config = student_config.read_config(student / "final" / "config.json")
    new = {"classes": 3, "images": 120, "test_split": told, **data}
    record["data"] |= {"local_copy": False, "revision": "abc123" if data["hub_id"] else None, **new}
    read = ModelCard(card.render(record, metrics, config, "me/student", "final", 2))
    found, hub_id = read.data.eval_results[0], data["hub_id"]
    assert words in read.text and (found.dataset_split, read.data.datasets) == (told, hub_id and [hub_id])
    assert (found.dataset_type, "ImageNet" in read.text) == (hub_id or "imagefolder", hub_id == "ILSVRC/imagenet-1k")
    assert ("120 training and an unknown number of test images" in read.text) == (hub_id is None)
    for name in NEW:
        del record["data"][name]
    old = ModelCard(card.render(record, metrics, config, "me/student", "final", 2))
    assert words.split(" (")[0] in old.text and old.data.datasets == (hub_id and [hub_id])


def test_a_teacher_of_other_classes_has_no_line_in_the_card(student):
    record, metrics = RunFolder(student).read()
    config = student_config.read_config(student / "final" / "config.json")
    record["teacher"]["test_top1"] = None
    text = card.render(record, metrics, config, "me/student", "final", 2)
    assert "| measured |" not in text and "distilled from wide_resnet depth 10 width 2" in text


def of_method(student, method: str, **changes) -> ModelCard:
    """The card of a student that another method has taught."""
    record, metrics = RunFolder(student).read()
    settings = {
        name: {key: each for key, (_, each) in catalogue.method(name).settings.items()} for name in method.split("+")
    }
    record |= {"method": method, "method_settings": settings, **changes}
    config = student_config.read_config(student / "final" / "config.json")
    return ModelCard(card.render(record, metrics, config, "me/student", "final", 2))


def test_the_card_of_another_method_says_what_it_does_and_cites_its_paper(student):
    read = of_method(student, "kd", positions=None)
    assert catalogue.method("kd").about in read.text and catalogue.method("overhaul").about not in read.text
    paper = catalogue.method("kd").paper
    fields = {"title": paper["title"], "author": paper["authors"], "booktitle": paper["venue"], "year": paper["year"]}
    bibtex = ",\n".join(f"  {name} = {{{each}}}" for name, each in fields.items())
    assert f"```bibtex\n@inproceedings{{{paper['key']},\n{bibtex}\n}}\n```" in read.text
    assert read.text.count("@inproceedings") == 1 and "Trained by the Python package overhaul." in read.text
    assert "| method.temperature | 4.0 |" in read.text and "| weight | student |" not in read.text
    assert read.data.tags == ["overhaul", "knowledge-distillation"]


def test_the_card_of_a_sum_tells_of_each_method(student):
    recipe = RunFolder(student).read()[0]["recipe"] | {"distill_weight": {"overhaul": 0.001, "kd": 0.9}}
    pairs = RunFolder(student).read()[0]["positions"]
    several = [{**pair, "method": name} for name in ("overhaul", "at") for pair in pairs]
    read = of_method(student, "overhaul+kd", recipe=recipe, positions=several)
    for name in ("overhaul", "kd"):
        assert f"**{name}**: {catalogue.method(name).about}" in read.text
        assert f"@inproceedings{{{catalogue.method(name).paper['key']},\n" in read.text
    assert "| distill_weight | overhaul 0.001, kd 0.9 |" in read.text and "| method.kd.temperature | 4.0 |" in read.text
    assert "\n| method | weight | student | teacher | margin |\n|---|---|---|---|---|\n| overhaul | 0.25 |" in read.text
    assert read.data.tags[-1] == "feature-distillation"


def test_the_card_of_a_network_trained_alone_cites_nothing(student):
    read = of_method(student, "original", teacher=None, positions=None)
    assert "was trained alone" in read.text and "bibtex" not in read.text and read.data.tags == ["overhaul"]


def test_the_card_of_a_method_of_another_release_has_its_name_alone(student):
    record, metrics = RunFolder(student).read()
    config = student_config.read_config(student / "final" / "config.json")
    record |= {"method": "crd"}
    del record["method_settings"]
    text = card.render(record, metrics, config, "me/student", "final", 2)
    assert "The method is crd." in text and "@inproceedings" not in text
    both = card.render({**record, "method": "kd+crd"}, metrics, config, "me/student", "final", 2)
    assert "\n**crd**\n" in both and f"**kd**: {catalogue.method('kd').about}" in both


def test_published_errors_beside_another_method_are_told_to_be_of_overhaul(student):
    published = asdict(SETUPS["cifar_c"].published)
    assert "| published, distilled by overhaul | 24.08 |" in of_method(student, "kd", published=published).text
    assert "| published, distilled | 24.08 |" in of_method(student, "overhaul", published=published).text


def test_the_curves_have_each_loss_of_a_sum(monkeypatch):
    labels, plot = [], Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda *given, **how: labels.append(how["label"]) or plot(*given, **how))
    line = dict.fromkeys(("cross_entropy", "train_top1", "test_top1", "test_top5"), 1.0) | {"epoch": 1}
    for more in ({"distill_loss.overhaul": 1.0, "distill_loss.kd": 2.0, "distill_loss": 3.0}, {"distill_loss": 0.0}):
        assert plots.draw([line | more], "title").startswith(b"\x89PNG")
    accuracies = ["training, top-1", "test, top-1", "test, top-5"]
    losses = ["cross-entropy, unweighted", "overhaul, weighted", "kd, weighted"]
    assert labels == [*losses, *accuracies, "cross-entropy", *accuracies]


def test_private_repositories_and_runs_that_cannot_be_pushed(student, hub, client, tmp_path):
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "overhaul.json").write_text("{}")
    private, open_one, late, no_run, no_end, badly_named, not_mine = client(
        ["push", student, "me/private", "--private"], ["push", student, "me/open"],
        ["push", student, "me/open", "--private"], ["push", tmp_path, "me/x"], ["push", unfinished, "me/x"],
        ["push", student, "me/a/b"], ["push", student, "other/x"],
    )  # fmt: skip
    assert private.status == 0 and hub.repositories.find("me/private").private, private.err
    assert open_one.status == 0 and not hub.repositories.find("me/open").private
    assert late.status == 2 and "is there and public" in late.err
    for answer, words in (
        (no_run, "is not the folder of a run"),
        (no_end, "--best takes its best student so far"),
        (badly_named, "is named USER/REPO"),
        (not_mine, "the token does not allow it"),
    ):
        assert answer.status == 2 and words in answer.err and len(answer.err.splitlines()) == 1, answer.err
    anonymous, mine = (
        client(["pull", "me/private", "--out", tmp_path / "a"], token=None),
        client(["pull", "me/private", "--out", tmp_path / "b"]),
    )
    assert anonymous[0].status == 2 and "or it is private" in anonymous[0].err and mine[0].status == 0


TRAIN = ["train", *teaching("--student.kwargs.width", 1, epochs=3)]


def test_training_pushes_in_the_background_and_at_its_end(hub, client, tmp_path):
    more = ["--output_dir", tmp_path / "run", "--push_to_hub", "me/digits", "--push_every", 1, "--push_private"]
    (answer,) = client([*TRAIN, *more])
    assert answer.status == 0, answer.err
    assert "pushed: " in answer.out and hub.repositories.find("me/digits").private
    messages = hub.messages("me/digits")
    assert messages[1].startswith("Epoch 1 of 3: test top-1 ") and messages[-1].startswith("Final student, epoch 3")
    (sha,) = hub.tags("me/digits").values()
    assert hub.files("me/digits", sha)["model.safetensors"] == (tmp_path / "run/final/model.safetensors").read_bytes()
    assert TOKEN not in answer.out + answer.err


def test_a_push_that_fails_never_ends_the_training_and_the_last_one_says_how_to_go_on(hub, client, tmp_path):
    hub.faults.append(Fault("POST .*/commit/main", status=500))
    more = ["--output_dir", tmp_path / "run", "--push_to_hub", "me/digits", "--push_every", 1]
    failed, again = [*TRAIN, *more], ["push", tmp_path / "run", "me/digits"]
    (answer,) = client(failed)
    assert answer.status == 2, answer.err
    *warnings, last = answer.err.splitlines()
    assert warnings and all("training goes on" in line for line in warnings), answer.err
    assert "the Hub is in trouble (500)" in last and f"`overhaul push {tmp_path / 'run'} me/digits`" in last
    assert "final student:" in answer.out and (tmp_path / "run" / "final" / "model.safetensors").is_file()
    hub.faults.clear()
    by_hand, same = client(again, failed)
    assert by_hand.status == 0 and same.status == 0 and "pushed: " in same.out
    assert hub.messages("me/digits")[1:] == [hub.messages("me/digits")[1]]


def test_a_token_is_looked_at_before_the_first_hour(hub, client, tmp_path):
    more = ["--output_dir", tmp_path / "run", "--push_to_hub", "me/digits"]
    ((none,), (unknown,)) = (client([*TRAIN, *more], token=token) for token in (None, "hf_unknownunknown"))
    for answer, words in ((none, "needs a token"), (unknown, "the Hub does not know the token")):
        assert answer.status == 2 and words in answer.err and "epoch" not in answer.out, answer.err
        assert "hf_unknownunknown" not in answer.err + answer.out


ROUND = """
import json, sys
import timm, torch
import overhaul, overhaul.timm_models
from transformers import AutoModelForImageClassification

assert "overhaul.train" not in sys.modules
torch.manual_seed(0)
images = torch.randn(4, 3, 16, 16)
ours = overhaul.load("me/digits")
with torch.no_grad():
    logits = ours(images)
    for other in (
        timm.create_model("hf-hub:me/digits", pretrained=True).eval(),
        lambda images: AutoModelForImageClassification.from_pretrained("me/digits").eval()(images).logits,
    ):
        torch.testing.assert_close(other(images), logits, rtol=1e-5, atol=1e-5)
"""


def test_the_whole_round(hub, client, ranks, digits_teacher, tmp_path):
    """Two ranks train and push; we, timm and transformers load it; it is as accurate; it teaches."""
    pushing = flags(digits_teacher, tmp_path / "run", "--push_to_hub", "me/digits", "--push_every", "1")
    results = ranks("support.hub_client:ask", hub.endpoint, tmp_path / "home", pushing)
    assert [result.out.count("pushed: ") for result in results] == [1, 0], results
    assert hub.messages("me/digits")[1:][-1].startswith("Final student, epoch 2")
    client.python("-c", ROUND)
    evaluated, taught = client(
        ["evaluate", "me/digits", "--data", "digits", "--json"],
        flags("me/digits", tmp_path / "next", "--epochs", 1),
    )
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert evaluated.status == 0 and json.loads(evaluated.out)["top1"] == pytest.approx(line["test_top1"], abs=1e-9)
    assert taught.status == 0, taught.err
    teacher = json.loads((tmp_path / "next" / "overhaul.json").read_text())["teacher"]
    commit = hub.repositories.find("me/digits").resolve("main")
    assert (teacher["source"], teacher["revision"]) == ("me/digits", commit)
    assert teacher["test_top1"] == pytest.approx(line["test_top1"])


@pytest.mark.parametrize("what", ["overhaul.hub.publish.write_folder", "overhaul.run.folder.write_text"])
def test_a_full_disk_stops_no_training_for_a_push(student, monkeypatch, capsys, what):
    """Whether the student or its record cannot be written."""
    files = {name: (student / "final" / name).read_bytes() for name in ("config.json", "model.safetensors")}
    monkeypatch.setattr(publish.client, "whoami", lambda: "me")
    publisher = publish.Publisher(Run(push_to_hub="me/digits", push_every=1), RunFolder(student))

    def full(*_) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(what, full)
    publisher.after_epoch(1, 3, lambda: files)
    said = capsys.readouterr().err
    assert publisher.thread is None and len(said.splitlines()) == 1
    assert "epoch 1 could not be put together for me/digits" in said and "training goes on" in said

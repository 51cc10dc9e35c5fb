"""The model card of a student's repository: README.md, rendered from card.md."""

from pathlib import Path

from overhaul.data.known import TITLES
from overhaul.hub import taught
from overhaul.hub.config import preprocessing
from overhaul.hub.entries import library_of
from overhaul.hub.markdown import LICENCES, licence_line, name_of, net_named, positions
from overhaul.published import Published
from overhaul.recipe import Preprocessing
from overhaul.report.tables import plain
from overhaul.run.folder import best_line
from overhaul.setups import SETUPS
from overhaul.system.markdown import code, escaped
from overhaul.system.messages import millions, printable

TEMPLATE = Path(__file__).parent / "card.md"


def render(record: dict, metrics: list[dict], config: dict, repo: str, which: str, epochs: int) -> str:
    """The card as Markdown with its metadata.

    record: see record.make_record; metrics: the lines of metrics.jsonl; config: the student's config.json; which: final
    or best; epochs: of the whole run.
    """
    from huggingface_hub import ModelCard

    line = metrics[-1] if which == "final" else best_line(metrics)
    student, teacher, show = record["student"], record["teacher"], preprocessing(config, repo)
    library = library_of(student["family"]) or ("timm" if student["family"] == "resnet" else "ours")
    in_timm, licence = library == "timm", config["pretrained_cfg"].get("license", "mit")
    card = ModelCard.from_template(
        metadata(record, line, repo, "timm" if in_timm else "overhaul", licence),
        template_path=str(TEMPLATE),
        title=title(record),
        repo=repo,
        student=name_of(student),
        student_parameters=millions(student["parameters"]),
        teacher=teacher and name_of(teacher),
        teacher_parameters=teacher and millions(teacher["parameters"]),
        classes=config["num_classes"],
        data=data_of(record),
        results=results(record, metrics, epochs),
        comparison=comparison(record, epochs),
        which=which,
        epoch=line["epoch"],
        epochs=epochs,
        seed=record["run"]["seed"],
        hardware=escaped(record["run"]["hardware"]),
        method=taught.about(record),
        citations=taught.citations(record),
        licence=licence_line(licence, student.get("started_from")),
        positions=positions(record),
        recipe=recipe(record),
        **images(show),
        **loading(student, library),
    )
    return str(card)


def loading(student: dict, library: str) -> dict:
    """What the lines that load a student need: of timm's, torchvision's, a file's or one of ours."""
    in_timm = library == "timm"
    return {
        "library": library,
        "architecture": student["family"].partition(":")[2],
        "arguments": ", ".join(f"{key}={value!r}" for key, value in net_named(student).arguments.items()),
        "code": code(student["family"]) if library == "file" else None,
        "needs_ours": "" if in_timm else " and overhaul",
        "import_ours": "" if in_timm else "\nimport overhaul.timm_models",
    }


def title(record: dict) -> str:
    how = "distilled" if record["teacher"] else "trained"
    counts = counts_of(record, "{classes} classes, ") if is_own(record) else ""
    return f"{name_of(record['student'])}, {how} on {escaped(data_name(record))}{counts}"


def is_own(record: dict) -> bool:
    """Whether the images are of a folder that is no copy of a named set."""
    return record["data"].get("local_copy", False) and not record["data"]["hub_id"]


def data_name(record: dict) -> str:
    name = record["data"]["name"]
    return printable(name if is_own(record) else TITLES.get(name, name))


def counts_of(record: dict, before: str = "") -> str:
    """How many images a folder holds, in brackets; nothing where an earlier release did not write it down."""
    data = record["data"]
    if "images" not in data:
        return ""
    tests = "an unknown number of" if data["test_images"] is None else f"{data['test_images']:,}"
    return f" ({before.format(**data)}{data['images']:,} training and {tests} test images)"


def data_of(record: dict) -> str:
    data = record["data"]
    if is_own(record):
        return escaped(data_name(record)) + counts_of(record)
    linked = f"[{escaped(data_name(record))}](https://huggingface.co/datasets/{data['hub_id']})"
    revision = f" (revision {escaped(data['revision'])})" if data["revision"] else ""
    return (linked if data["hub_id"] else escaped(data_name(record))) + revision


def images(show: Preprocessing) -> dict:
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (show.mean, show.std))
    sizes = {"size": show.size, "resize": show.resize, "interpolation": show.interpolation}
    return {**sizes, "mean": f"({mean})", "std": f"({std})"}


def results(record: dict, metrics: list[dict], epochs: int) -> list[dict]:
    last, top = metrics[-1], best_line(metrics)
    rows = [
        (f"this run, epoch {last['epoch']}", last, "final" if last["epoch"] == epochs else f"of {epochs}, so far"),
        (f"this run, epoch {top['epoch']}", top, "best"),
    ]
    rows = [(name, 100 - line["test_top1"], 100 - line["test_top5"], note) for name, line, note in rows]
    if record["teacher"] and record["teacher"]["test_top1"] is not None:
        rows.append((f"teacher, {name_of(record['teacher'])}", 100 - record["teacher"]["test_top1"], None, "measured"))
    if record["published"]:
        paper = Published(**record["published"])
        theirs = [row for row in paper.rows(record["method"]) if record["teacher"] or row[0] == "student alone"]
        notes = {"teacher": ""}
        rows += [(f"published, {name}", one, five, notes.get(name, paper.models)) for name, one, five in theirs]
    return [
        {"name": name, "top1": f"{one:.2f}", "top5": "" if five is None else f"{five:.2f}", "note": note}
        for name, one, five, note in rows
    ]


def comparison(record: dict, epochs: int) -> str:
    row = SETUPS.get(record["setup"])
    if not record["published"] or row is None:
        return ""
    if epochs == row.epochs and not record["changes_of_length"]:
        return f"Published: {row.epochs} epochs, as here."
    length = f"{epochs}, after its length was changed" if record["changes_of_length"] else f"{epochs}"
    return f"The published models were trained for {row.epochs} epochs, this one for {length}: they are not comparable."


def recipe(record: dict) -> list[tuple[str, str]]:
    run = record["run"]
    rows = {"setup": record["setup"], "method": record["method"]}
    rows["teacher's weights"] = source_of(record["teacher"])
    rows["student's first weights"] = source_of(record["student"].get("started_from"))
    rows |= {"training images": record["data"]["training_images"], "test images": record["data"]["test_images"]}
    rows |= taught.settings(record) | record["recipe"] | {key: value for key, value in run.items() if key != "hardware"}
    for change in record["changes_of_length"]:
        where = f"after epoch {change['after_epoch']}" + f" and {change['and_steps']} steps" * bool(change["and_steps"])
        rows[f"changed {where}"] = f"epochs from {change['epochs_before']} to {change['epochs']}"
    rows |= {f"version of {name}": version for name, version in record["versions"].items()}
    texts = {
        name: plain(each) if isinstance(each, dict) else str(each) for name, each in rows.items() if each is not None
    }
    return [(escaped(name), escaped(text)) for name, text in texts.items()]


def source_of(weights: dict | None) -> str | None:
    if not weights:
        return None
    revision = f" at {weights['revision']}" if weights["revision"] else ""
    return f"{weights['source']}{revision}, SHA-256 {weights['sha256']}"


def metadata(record: dict, line: dict, repo: str, library: str, licence: str):
    """What the Hub reads from the card, the model-index among it."""
    from huggingface_hub import EvalResult, ModelCardData

    data = record["data"]
    common = {
        "task_type": "image-classification",
        "dataset_type": "imagefolder" if is_own(record) else data["hub_id"] or data["name"],  # as datasets calls it
        "dataset_name": data_name(record),
        "dataset_split": data.get("test_split") or ("validation" if data["name"] == "imagenet" else "test"),
        "dataset_revision": data["revision"],
        "metric_type": "accuracy",
    }
    tags = ["overhaul", *["knowledge-distillation"] * bool(record["teacher"])]
    tags += ["feature-distillation"] * taught.by_features(record)
    return ModelCardData(
        **({"license": licence} if licence in LICENCES else {"license": "other", "license_name": licence}),
        library_name=library,
        pipeline_tag="image-classification",
        tags=tags,
        datasets=[data["hub_id"]] if data["hub_id"] else None,
        metrics=["accuracy"],
        model_name=repo.rpartition("/")[2],
        eval_results=[
            EvalResult(**common, metric_name=f"top-{k} accuracy, percent", metric_value=round(line[f"test_top{k}"], 4))
            for k in (1, 5)
        ],
    )

"""What the functions of the API return, as text; called: with which arguments."""

import json
import textwrap

from overhaul.published import Published
from overhaul.system.messages import millions, printable, text_table

HEAD = ("setup", "of", "method", "teacher", "student", "M parameters", "data", "epochs", "batch", "published error %")
KINDS = {"int": "a whole number", "bool": "true or false", "float": "a number"}
OTHERS = (
    "Any other convolutional network:",
    "    timm:NAME              --student timm:mobilenetv3_small_100; fresh weights (trained ones: timm/NAME.TAG)",
    "    torchvision:NAME       --student torchvision:mobilenet_v2; with torchvision's weights: mobilenet_v2@DEFAULT",
    "    FILE.py:FUNCTION       --student my_net.py:make_net; what the function returns; it gets num_classes where it",
    "                           takes it, and the arguments of --student.kwargs",
)
INDENTED = {"initial_indent": "    ", "subsequent_indent": "    "}


def bench_table(lines: list[dict], called: dict) -> str:
    """Images a second of one core."""
    keys = ("images_per_second", "lowest", "highest")
    rows = [(line["data"], *(f"{line[key]:,.0f}" for key in keys)) for line in lines]
    return text_table([("training images", "images/s (median)", "lowest", "highest"), *rows])


def step_table(result: dict, called: dict) -> str:
    """What bench.bench found: a line a piece of the step, and the whole beside the machine."""
    whole, peak = sum(result["pieces"].values()), result["peak_memory"] / 2**30
    rows = [(name, f"{1000 * each:.1f}", f"{100 * each / whole:.1f}") for name, each in result["pieces"].items()]
    compiled = "" if result["compile"] == "no" else f", --compile {result['compile']}"
    share = result["flops"] / result["convolution_flops"]
    return "\n".join(
        [
            f"{result['setup']}, {result['method']}, batches of {result['batch_size']}: {result['device']}{compiled}\n",
            text_table([("piece of a step", "ms (median)", "share %"), *rows]),
            f"\nwhole step  {1000 * result['step']:.1f} ms without data (median of {result['steps']}), "
            f"{result['images_per_second']:,.1f} images/s",
            f"networks    {result['flops'] / 1e9:,.0f} GFLOP/s, {share:.2f} of what a large convolution reaches here "
            f"({result['convolution_flops'] / 1e9:,.0f})",
            f"memory      {peak:.2f} GiB at the peak",
        ]
    )


def setups_text(found: list[dict] | dict, called: dict) -> str:
    """The rows of api.setups, or the whole of one."""
    if isinstance(found, dict):
        return whole_setup(found)
    return text_table([HEAD, *map(setup_row, found)]) + (
        "\n\npublished error: top-1 (ImageNet: / top-5) of the student alone -> distilled; CIFAR: median of 5 final "
        "models, ImageNet: best epoch\nown, own_teacher: epochs, batch and learning rate are chosen by the images\n"
        "`overhaul setups NAME` shows a whole recipe, `overhaul models` the networks"
    )


def whole_setup(setup: dict) -> str:
    """Every field of a row, and the commands that train it."""
    told = {name: value for name, value in setup.items() if name not in ("published", "commands")}
    nets = [name for name in ("student", "teacher") if told[name]]
    rows = [(name, net_text(value) if name in nets else plain(value)) for name, value in told.items()]
    if setup["published"]:
        paper = Published(**setup["published"])
        errors = (f"{name} {top1:.2f}{f' / {top5:.2f}' if top5 else ''}" for name, top1, top5 in paper.rows())
        what = f"top-1{' / top-5' if paper.top5 else ''} error in percent, {paper.models}"
        rows.append(("published", f"{', '.join(errors)} ({what})"))
    lines = [f"{name:18}{text}" for name, text in rows]
    return "\n".join([*lines, "", "to train it:", *(f"  {command}" for command in setup["commands"])])


def net_text(net: dict) -> str:
    arguments = ", ".join(f"{name} {plain(value)}" for name, value in net["kwargs"].items())
    size = f" ({millions(net['parameters'])} parameters)" if net["parameters"] else ""
    weights = f", weights {net['weights']}" if net["weights"] else ""
    return f"{net['family'] or 'any'}{': ' * bool(arguments)}{arguments}{size}{weights}"


def plain(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(plain, value))}]"
    if isinstance(value, dict):
        return ", ".join(f"{name} {plain(each)}" for name, each in value.items()) or "-"
    if value is None or isinstance(value, bool):
        return {None: "-", True: "true", False: "false"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def families(found: list[dict], called: dict) -> str:
    """What api.models returns: a family, what it is, its arguments and an example."""
    lines = []
    for each in found:
        arguments = ", ".join(f"{name} ({KINDS.get(kind, kind)})" for name, kind in each["arguments"].items())
        lines += [each["family"], *textwrap.wrap(each["about"].replace("`", ""), 100, **INDENTED)]
        lines += [f"    arguments: {arguments or 'none'}"]
        if each["example"] is not None:
            kwargs = f" --student.kwargs '{json.dumps(each['example'])}'" if each["example"] else ""
            lines += [f"    example:   --student.family {each['family']}{kwargs}"]
        lines += [""]
    return "\n".join([*lines, *OTHERS, "", "The same for --teacher; the number of classes is left to the data."])


def setup_row(setup: dict) -> tuple[str, ...]:
    sizes = " -> ".join(f"{count / 1e6:.2f}" for count in setup["parameters"] if count) or "-"
    columns = ("data", "epochs", "batch_size")
    return (
        setup["setup"],
        "the paper" if setup["paper"] else "us",
        setup["method"],
        setup["teacher"] or "-",
        setup["student"],
        sizes,
        *(plain(setup[column]) for column in columns),
        errors(setup["published"]),
    )


def errors(published: dict | None) -> str:
    """The student's published errors, alone and distilled."""
    if published is None:
        return "-"
    found = {name: (top1, top5) for name, top1, top5 in Published(**published).rows()}
    alone, distilled = (
        " / ".join(f"{each:.2f}" for each in found[name] if each is not None) for name in ("student alone", "distilled")
    )
    return f"{alone} -> {distilled}"


def accuracy(result: dict, called: dict) -> str:
    accuracies = f"top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} %"
    return f"{called['source']}: {accuracies} of {result['images']:,} images"


def predictions(answers: list[dict], called: dict) -> str:
    lines = []
    for answer in answers:
        classes = ", ".join(f"{printable(name)} {100 * share:.2f} %" for name, share in answer["classes"])
        lines.append(f"{printable(answer['image'])}: {classes}")
    return "\n".join(lines)


def pulled(result: dict, called: dict) -> str:
    left_out = ", ".join(result["left_out"])
    without = f", without {left_out}, as the Hub does not answer" if left_out else ""
    return f"{result['folder']}: {result['repo']} at {result['revision']}{without}"


def pushed(address: str, called: dict) -> str:
    return f"pushed: {address}"


def exported(result: dict, called: dict) -> str:
    agreement = f"logits of random images within {result['difference']:.1g} (relative) of the original's"
    numbers = [", ".join(f"{value:.4g}" for value in result[key]) for key in ("mean", "std") if result[key]]
    how = "with mean {} and std {}".format(*numbers) if numbers else "as in training"
    size = f"images [batch, 3, {result['size']}, {result['size']}]"
    return f"{result['file']}: {result['format']}, {result['bytes'] / 1e6:.2f} MB, {agreement}; {size} normalised {how}"


def prepared(result: dict, called: dict) -> str:
    left_out = result["left_out"]
    without = f", {left_out} broken image{'s' * (left_out > 1)} left out" if left_out else ""
    images = " and ".join(f"{result[name]:,} {name}" for name in ("train", "validation"))
    return f"{result['folder']}: {images} images{without}; train on them with --data_path {result['folder']}"


def demo_table(lines: list[dict], called: dict) -> str:
    rows = [
        (line["network"], f"{line['parameters']:,}", f"{line['test_top1']:.2f}", f"{line['seconds']:.0f} s")
        for line in lines
    ]
    head = ("network", "parameters", "test top-1 %", "training time")
    return f"\n{text_table([head, *rows])}\n\nthe distilled student: {lines[-1]['folder']}/final"


def inspected(result: dict, called: dict) -> str:
    """The networks, their maps or pairs of maps, and what is odd in them."""
    networks = [
        f"{role}: {each['network']}, {millions(each['parameters'])} parameters, {each['image_size']} pixels"
        for role, each in result["networks"].items()
    ]
    return "\n".join([*networks, "", pairs_table(result) if "pairs" in result else maps_table(result)])


def pairs_table(found: dict) -> str:
    """Pairs of maps; see training.positions.compared."""
    sides = ("teacher's map", "stride", "size", "before", "margin", "student's map", "stride", "size", "before")
    rows = [("method", "weight", *sides, "resized")]
    for each in found["pairs"]:
        mine, theirs = each["student"], each["teacher"]
        resized, whose = "yes" if mine["resized"] else "no", each.get("method", "-")
        rows.append((whose, f"{each['weight']:g}", *cells(theirs), theirs["margin"], *cells(mine), resized))
    return "\n".join([text_table(filled(rows)), *found["notes"]])


def filled(rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The rows under their head, without columns in which nothing stands."""
    columns = [column for column in zip(*rows, strict=True) if {*column[1:]} - {"", "-"}]
    return list(zip(*columns, strict=True))


def maps_table(found: dict) -> str:
    """The maps of one network; see training.positions.alone."""
    rows = [("map", "stride", "size", "before", "margin"), *((*cells(each), each["margin"]) for each in found["maps"])]
    return "\n".join([text_table(rows), *found["notes"]])


def cells(each: dict) -> tuple[str, ...]:
    return each["module"], f"/{each['stride']}", shape(each), each["activation"]


def shape(each: dict) -> str:
    return f"{each['channels']}x{each['height']}x{each['width']}"

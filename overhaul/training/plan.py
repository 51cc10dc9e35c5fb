"""What is about to run: images, networks, methods, what is compared, and steps."""

import textwrap
from pathlib import Path

from overhaul import distill, schedule
from overhaul.methods import filled
from overhaul.models import parameters
from overhaul.recipe import Setup
from overhaul.report.tables import pairs_table, plain
from overhaul.setups import SETUPS
from overhaul.system.accelerator import describe_devices
from overhaul.system.messages import millions, printable
from overhaul.training.build import Components
from overhaul.usual import OF_METHOD


def header(of: Components, folder: Path) -> str:
    """What is about to run, where, and its plan."""
    setup, train, test = of.setup, of.train_loader, of.test_loader
    left_out = [*getattr(train.images, "left_out", ()), *getattr(test.images, "left_out", ())]
    tests = "an unknown number of" if test.expected is None else f"{test.expected:,}"
    stream = "; a stream: shuffled within a buffer, and resumed approximately" if of.run.streaming else ""
    return (
        f"{setup.name}, {setup.method}: {len(train.images):,} training and {tests} test images"
        f"{''.join(f', {printable(str(each))}, left out' for each in left_out)}{stream}; "
        f"{describe_devices(of.accelerator)}; {printable(str(folder))}\n{plan(of)}"
    )


def plan(of: Components) -> str:
    """Parameters of teacher, student and connectors, the methods, what is compared, and how the steps are made up."""
    setup, world, steps = of.setup, of.accelerator.num_processes, len(of.train_loader)
    networks = (("teacher", setup.teacher, of.teacher), ("student", setup.student, of.student))
    lines = [
        f"  {role:11}{printable(str(net))} ({millions(parameters(network))} parameters)"
        for role, net, network in networks
        if network
    ]
    if of.teacher:
        lines += [*method_lines(of), *compared_lines(of)]
    how = ", ".join(filter(None, [setup.optimizer * (setup.optimizer != "sgd"), schedule.told(setup)]))
    parts = f" in {of.run.gradient_accumulation_steps} parts" if of.run.gradient_accumulation_steps > 1 else ""
    lines.append(
        f"  steps      {setup.epochs} epochs x {steps:,} = {setup.epochs * steps:,}, each of {setup.batch_size} images"
        f" ({world} x {setup.batch_size // world}{parts}){how and f'; {how}'}"
    )
    if of.choice:
        lines += textwrap.wrap(of.choice, 118, initial_indent="  chosen     ", subsequent_indent=" " * 13)
    return "\n".join(lines)


def method_lines(of: Components) -> list[str]:
    """What each method compares, its weight and settings, unless all are those of the setup's row."""
    setup, images = of.setup, of.share // of.run.gradient_accumulation_steps
    row = SETUPS.get(setup.name)
    if row and all(getattr(setup, name) == getattr(row, name) for name in ("method", "method_settings", *OF_METHOD)):
        return []
    settings = filled(setup.method, setup.method_settings)
    lines = [] if setup.label_weight == 1 else [f"  labels     cross-entropy; weight {setup.label_weight:g}"]
    norms = setup.of_methods("teacher_norm")
    for name, part, norm in zip(setup.methods, distill.parts(of.method), norms, strict=True):
        weight = weight_words(setup, name, part.scale(images), images)
        teacher = f"teacher on {norm} statistics" if len({*norms}) > 1 or norm != part.teacher_norm else ""
        told = part.compares, weight, settings[name] and plain(settings[name]), teacher
        lines.append(f"  {name:10} {'; '.join(filter(None, told))}")
    return lines


def weight_words(setup: Setup, name: str, scale: float, images: int) -> str:
    """The distillation weight of a method where a process compares so many images, and how it grows."""
    number = setup.methods.index(name)
    weight, ramp = (setup.of_methods(field)[number] for field in ("distill_weight", "ramp_epochs"))
    words = f"weight {weight:g}"
    if scale != 1:
        words += f" x {scale:g} for {images} images at once"
    if ramp:
        words += f", full after {ramp} epochs"
    if ramp > setup.epochs:
        words += f" (this run ends with {setup.epochs / ramp:g} of it)"
    return words


def compared_lines(of: Components) -> list[str]:
    """What is learned beside the student, and the pairs of maps that are compared."""
    learned, has_pairs = parameters(of.method.connectors), of.positions and of.positions["pairs"]
    words = [f"{millions(learned)} parameters, thrown away afterwards"] if learned else []
    words += ["what is compared:"] if has_pairs else []
    lines = [f"  {'connectors' if learned else 'maps':10} {'; '.join(words)}"] if words else []
    return [*lines, textwrap.indent(pairs_table(of.positions), "    ")] if has_pairs else lines

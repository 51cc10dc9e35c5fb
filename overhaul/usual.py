"""What of a setup belongs to its method, and has other values under another."""

from dataclasses import asdict, replace

from overhaul import catalogue, methods
from overhaul.recipe import BY_METHOD, Setup
from overhaul.system.messages import UserError

HIDDEN = ("name", "published", "like")  # of a Setup's fields: what a row is, and no setting of it
OF_METHOD = (*BY_METHOD, "label_weight")


def is_of_method(entry: str) -> bool:
    """Whether an entry of --config, by its flat name, is the method, a setting of it or what it weighs."""
    return entry.split(".")[0] in ("method", *OF_METHOD)


def as_entries(setup: Setup) -> dict:
    """Its fields as entries of --config and plain values; a method's settings as their flags are called."""
    found = {name: each for name, each in asdict(setup).items() if name not in HIDDEN}
    settings = methods.flat(found.pop("method_settings"))
    if len(setup.methods) == 1:
        settings = {key.rpartition(".")[2]: each for key, each in settings.items()}
    return found | {f"method.{key}": each for key, each in settings.items()}


def changed(setup: Setup, row: Setup, changes: dict) -> Setup:
    """The setup with the changes; what they do not name of another method is as usual in this setup."""
    method = changes.get("method", setup.method)
    if method != setup.method:
        setup = replace(setup, method=method, method_settings={}, **{each: getattr(row, each) for each in OF_METHOD})
    given = {**methods.flat(setup.method_settings), **methods.flat(changes.get("method_settings", {}))}
    setup = complete(replace(setup, method_settings=given), row, changes.get("distill_weight"))
    for name in BY_METHOD:
        if isinstance(changes.get(name), dict):
            usual = dict(zip(setup.methods, setup.of_methods(name), strict=True))
            changes = {**changes, name: usual | changes[name]}
    setup = replace(setup, **{name: value for name, value in changes.items() if name != "method_settings"})
    if len(setup.methods) > 1 and not isinstance(setup.distill_weight, dict):
        first = f"--distill_weight.{setup.methods[0]}"
        raise UserError(
            f"--distill_weight {setup.distill_weight:g}: {setup.method} are several; say of which, as {first}"
        )
    return setup


def complete(setup: Setup, row: Setup, named: float | dict | None = None) -> Setup:
    """The setup with the usual values of its method, where it is another than its row's and has none of them yet.

    named: a distillation weight, which counts in their place.
    """
    same = setup.method == row.method or any(getattr(setup, each) != getattr(row, each) for each in OF_METHOD)
    if same or not methods.needs(setup.method):
        return setup
    found = {}
    for name in setup.methods:
        usual = methods.usual(name, setup.like, setup.name, setup.method_settings.get(name, {}))
        found[name] = {"distill_weight": row.distill_weight} | usual
        if found[name]["distill_weight"] is None:
            weight = named.get(name) if isinstance(named, dict) else named
            flag = f"--distill_weight{f'.{name}' * (len(setup.methods) > 1)}"
            if weight is None:
                raise UserError(f"no weight of {name} is known but for CIFAR's images: name {flag}")
            found[name]["distill_weight"] = weight
    values = {each: {name: found[name][each] for name in found} for each in BY_METHOD}
    if len({*values["teacher_norm"].values()}) == 1:
        values["teacher_norm"] = found[setup.methods[0]]["teacher_norm"]
    settings = {name: {key: found[name][key] for key in catalogue.method(name).settings} for name in found}
    label_weight = min(each["label_weight"] for each in found.values())
    return replace(setup, method_settings=settings, label_weight=label_weight, **values)

"""Feature distillation for convolutional networks: "A Comprehensive Overhaul of Feature Distillation" on Accelerate.

The functions of overhaul.api are offered here, and imported when they are first used.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from overhaul.api import (
        bench,
        evaluate,
        export,
        inspect,
        load,
        methods,
        models,
        predict,
        prepare,
        pull,
        push,
        report,
        setups,
        study,
        train,
    )
    from overhaul.system.messages import UserError

__all__ = [
    "UserError",
    "__version__",
    "bench",
    "evaluate",
    "export",
    "inspect",
    "load",
    "methods",
    "models",
    "predict",
    "prepare",
    "pull",
    "push",
    "report",
    "setups",
    "study",
    "train",
]
FUNCTIONS = {*__all__} - {"UserError", "__version__"}


class Door(ModuleType):
    """A room that is also the function of its name: overhaul.bench.make_step, and overhaul.bench(setup="cifar_c")."""

    def __call__(self, *arguments, **options):
        from overhaul import api

        return getattr(api, self.__name__.rpartition(".")[2])(*arguments, **options)


class Package(ModuleType):
    """The package, whose rooms become doors when the import system hangs them in."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in FUNCTIONS and isinstance(value, ModuleType):
            value.__class__ = Door
        super().__setattr__(name, value)


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("overhaul")
    if name == "UserError":
        from overhaul.system.messages import UserError

        return UserError
    if name in ("bench", "distill", "methods", "models", "report", "setups", "study"):
        return importlib.import_module(f"overhaul.{name}")
    if name in FUNCTIONS:
        from overhaul import api

        return getattr(api, name)
    raise AttributeError(f"module 'overhaul' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


sys.modules[__name__].__class__ = Package

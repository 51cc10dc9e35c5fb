"""A network as a user names it: which one, its trained weights, and what is said of both; imports without torch."""

import re
from dataclasses import dataclass, field, replace
from os import PathLike, fspath

from overhaul import catalogue
from overhaul.system.messages import WEIGHTS, UserError, choose, nearest, printable
from overhaul.system.numbers import check_numbers

LEAST_STD, LARGEST = 1e-6, 1e6  # a smaller std, or a larger number, would leave no finite numbers of an image
LIBRARY = re.compile(r"(timm|torchvision):([^@]*)(@.*)?")  # a network of a library, and which of its trained weights
FUNCTION = re.compile(r"(.+\.py):(\w+)")  # a function in a file of the user's
KINDS = {"int": (int, "a whole number"), "bool": (bool, "true or false")}  # of our families' arguments
REFUSED = re.compile(  # arguments that fetch or open files, or make another thing than a classifier of colour images
    "(pretrained|checkpoint|weights|feature|cache|kwargs_filter|model_|progress|url|file|hf_).*"
    "|scriptable|exportable|no_jit|out_indices|variant|quantize|device|dtype"
)
LARGEST_NUMBER, LONGEST_TEXT, LONGEST_LIST = 10_000, 100, 64  # of an argument; a list's numbers add up to the first


def is_foreign(family: str | None) -> bool:
    """Whether it names a network of a library or of a user's file: timm:NAME, torchvision:NAME, FILE.py:FUNCTION."""
    return bool(family and (LIBRARY.fullmatch(family) or FUNCTION.fullmatch(family)))


def is_mean(values: tuple[float, ...]) -> bool:
    return len(values) == 3 and all(abs(each) < LARGEST for each in values)


def is_std(values: tuple[float, ...]) -> bool:
    return len(values) == 3 and all(LEAST_STD < each < LARGEST for each in values)


def check_normalisation(mean: tuple[float, ...] | None, std: tuple[float, ...] | None, flags: str = "--") -> None:
    """UserError for what no images have, or would leave no numbers of them."""
    if mean is not None and not is_mean(mean):
        raise UserError(f"{flags}mean is three numbers in 0..1, not {list(mean)}")
    if std is not None and not is_std(std):
        raise UserError(f"{flags}std must be above 0, three numbers, not {list(std)}")


@dataclass(frozen=True, kw_only=True)
class Net:
    """A network and its trained weights; with neither named, any (see is_any).

    Args:
        family: a name that `overhaul models` lists, timm:NAME, torchvision:NAME or FILE.py:FUNCTION; told by the
            weights where it is not named
        kwargs: the family's arguments
        weights: a run's or student's folder, a checkpoint file, USER/REPO[@REVISION] on the Hub, or
            torchvision:NAME@DEFAULT
        key: which entry of a checkpoint file holds the weights, or their prefix in it, where several fit
        mean: of the pixels that it was trained on, a channel each, where the weights do not say
        std: of the pixels that it was trained on, a channel each, where the weights do not say
        positions: the modules whose maps are compared, in place of those that are found: what each gives before the
            activation that it ends in (NAME#2: its third call; NAME:in, NAME:out: that very tensor)
        image_size: side in pixels of the images that a teacher sees, in place of the student's
    """

    family: str | None = None
    kwargs: dict[str, int | bool | float | str] = field(default_factory=dict)
    weights: str | None = None
    key: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    positions: tuple[str, ...] | None = None
    image_size: int | None = None

    def check(self, flags: str = "--") -> None:
        """UserError for what cannot be; flags: what those of its fields begin with."""
        check_numbers(self, {"image_size": 10_000}, flags)
        check_normalisation(self.mean, self.std, flags)
        if self.key is not None and self.weights is None:
            raise UserError(f"{flags}key {self.key} goes with the weights of a checkpoint file, and none are named")
        if (self.mean is None) != (self.std is None):
            raise UserError(f"{flags}mean and {flags}std go together; name both")
        if is_foreign(self.family) and named(self.family).weights:
            what = f"{flags[:-1]} {self.family}" if flags != "--" else f"{self.family} alone"
            raise UserError(f"{flags}family {self.family} is a network with its weights; say {what}")
        if self.weights and is_foreign(self.weights) and "@" not in self.weights:
            how = advice(self.weights, flags.removesuffix("."))
            raise UserError(f"{flags}weights {self.weights} names a network, not its weights; {how}")
        if self.positions is not None and (not self.positions or not all(map(str.strip, self.positions))):
            raise UserError(f"{flags}positions are names of modules, at least one; leave it out to have them found")
        if twice := [name for n, name in enumerate(self.positions or ()) if name in self.positions[:n]]:
            raise UserError(f"{flags}positions has {twice[0]} twice; name each position once")
        if self.image_size is not None and self.image_size < 1:
            raise UserError(f"{flags}image_size must be at least 1, not {self.image_size}")

    @property
    def named(self) -> "Net | None":
        """The net, where its family is named."""
        return self if self.family else None

    @property
    def is_any(self) -> bool:
        """Whether neither its family nor its weights are named."""
        return not (self.family or self.weights)

    @property
    def arguments(self) -> dict[str, int | bool | float | str]:
        """Its kwargs but for the number of classes."""
        return {key: value for key, value in self.kwargs.items() if key != "num_classes"}

    def of(self, family: str) -> "Net":
        """The net of a family: this one, or one that has no more of it than the number of classes."""
        kept = {key: value for key, value in self.kwargs.items() if key == "num_classes"}
        return self if family == self.family else Net(family=family, kwargs=kept)

    def said(self, text: str | PathLike) -> "Net":
        """The net with what `named` makes of a text: another network, trained weights, or both."""
        said = named(text)
        net = self.of(said.family) if said.family else self
        return replace(net, weights=said.weights or net.weights)

    def __str__(self) -> str:
        return " ".join([str(self.family), *(f"{key}={value}" for key, value in self.kwargs.items())])

    @property
    def title(self) -> str:
        """As papers write it, without its number of classes."""
        kept = {key: value for key, value in self.kwargs.items() if key not in ("num_classes", "bottleneck")}
        return " ".join([self.family or "any", *(f"{key} {value}" for key, value in kept.items())])


def named(text: str | PathLike) -> Net:
    """The Net that a user names in a word: timm:NAME, torchvision:NAME[@ENTRY], FILE.py:FUNCTION, or trained weights.

    ENTRY, one of torchvision's trained weights, makes them the Net's. Raises UserError for a word that is none of them.
    """
    if not isinstance(text, (str, PathLike)):
        what = type(text).__name__
        raise UserError(f"a network is named by a word, as timm:NAME, or a Net, not a {what}; distill() takes modules")
    text = fspath(text)
    if match := LIBRARY.fullmatch(text):
        library, name, entry = match.groups()
        if library == "timm" and (entry or "." in name):
            tag = "" if "." in name else ".TAG"
            raise UserError(f"{text}: trained weights of timm are on the Hub; say timm/{name}{tag}")
        if not name or entry == "@":
            raise UserError(f"{text} is not whole: say timm:NAME, torchvision:NAME or torchvision:NAME@DEFAULT")
        return Net(family=f"{library}:{name}", weights=text if entry else None)
    if FUNCTION.fullmatch(text):
        return Net(family=text)
    if text.endswith(".py") or ".py:" in text:
        raise UserError(f"{text}: a network in a file of Python is named with what makes it, FILE.py:FUNCTION")
    if re.fullmatch(r"[A-Za-z][\w.]+:[\w.]*", text) and not text.endswith(WEIGHTS):
        raise UserError(f"{text}: a network is named timm:NAME, torchvision:NAME or FILE.py:FUNCTION")
    return Net(weights=text)


def advice(family: str, flag: str = "") -> str:
    """How trained weights of a network that is not ours are named, by a flag or as a source."""
    library, _, name = family.partition(":")
    known = {"timm": f"{flag} timm/{name}.TAG, on the Hub", "torchvision": f"{flag} torchvision:{name}@DEFAULT"}
    file = f"{flag}.weights FILE" if flag else f"FILE --net {family}"
    return f"name them: {' or '.join([*filter(None, [known.get(library, '').strip()]), file])}"


def check_names(flag: str, net: Net) -> None:
    """UserError for a family that there is not, and for arguments that it does not take or lacks, without torch.

    Where there are weights they may say the arguments.
    """
    if LIBRARY.fullmatch(net.family):
        check_arguments(f"{flag}.kwargs", net.kwargs)
    if is_foreign(net.family):
        return
    known = catalogue.families()
    if net.family not in known:
        named(net.family)
    taken = catalogue.arguments(choose(f"{flag}.family", net.family, known))
    if unknown := [name for name in net.kwargs if taken and name not in taken]:
        known = ", ".join(name for name in taken if name != "num_classes") or "no arguments"
        raise UserError(f"{flag}.kwargs: {net.family} takes {known}, not {unknown[0]}{nearest(unknown[0], taken)}")
    for name, value in net.kwargs.items():
        kind, words = KINDS.get(taken.get(name), (type(value), ""))
        if type(value) is not kind:
            raise UserError(f"{flag}.kwargs.{name} takes {words}, not {printable(str(value))[:80]!r}")
    missing = [name for name in catalogue.required(net.family) if name not in (*net.kwargs, "num_classes")]
    if missing and net.weights is None:
        names = " and ".join(f"{flag}.kwargs.{name}" for name in missing)
        raise UserError(f"{flag}.family {net.family} needs {names}; `overhaul models` says which values there are")


def check_arguments(what: str, kwargs: dict) -> None:
    """UserError for arguments of a network that is not ours which are no plain values of bounded size, or REFUSED."""
    for name, value in kwargs.items():
        if REFUSED.fullmatch(name) or name == "in_chans":
            raise UserError(
                f"{what}.{name} is no argument of a fresh network: leave it out (trained weights are named apart)"
            )
        most = 100 * LARGEST_NUMBER if name == "num_classes" else LARGEST_NUMBER
        if not is_plain(value, most):
            shown = printable(str(value))[:80]
            raise UserError(
                f"{what}.{name} must be true or false, a number up to {most:,}, a text of up to {LONGEST_TEXT} "
                f"letters, or a short list of them, not {shown!r}"
            )


def is_plain(value: object, most: float = LARGEST_NUMBER) -> bool:
    """Whether a value is a bool, a bounded number, a short text, or a short list of these."""
    if isinstance(value, (list, tuple)):
        flat = [each for inner in value for each in (inner if isinstance(inner, (list, tuple)) else [inner])]
        alone = len(flat) <= LONGEST_LIST and not any(isinstance(each, (list, tuple)) for each in flat)
        plain = alone and all(map(is_plain, flat))
        return plain and sum(abs(each) for each in flat if isinstance(each, (int, float))) <= most
    if isinstance(value, str):
        return len(value) <= LONGEST_TEXT and value.isprintable()
    return value is None or isinstance(value, bool) or (isinstance(value, (int, float)) and abs(value) <= most)

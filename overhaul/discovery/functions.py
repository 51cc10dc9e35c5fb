"""What the functions of torch are to a search for feature maps: activations, norms, convolutions, sums, gates."""

UNSEEN = "unseen"  # a function of C++ that keeps the shape: an activation, as far as can be told
NEGATIVE = ("silu", "hardswish", "gelu", "leaky_relu", "prelu", "elu", "mish", "softplus", UNSEEN)  # let some through

ACTIVATIONS = {
    **{name: name for name in ("relu", "relu6", *NEGATIVE)},
    **dict.fromkeys(("threshold", "clamp", "clamp_min", "clip", "maximum"), "relu"),
    **dict.fromkeys(("selu", "celu"), "elu"),
    "hardtanh": "relu6",
    "hard_swish": "hardswish",
    "rrelu": "leaky_relu",
}
NORMS = ("batch_norm", "group_norm", "layer_norm", "instance_norm", "rms_norm")
CONVERSIONS = ("contiguous", "clone", "to", "float", "half", "bfloat16", "double", "type_as", "pad")
DROPOUTS = ("dropout", "dropout2d", "alpha_dropout", "feature_dropout", "feature_alpha_dropout")
ARITHMETIC = ("mul", "div", "truediv", "add", "sub", "pow")  # with a number or a parameter
KINDS = {"add": "add", "mul": "mul", "cat": "cat", "concat": "cat", "concatenate": "cat", "linear": "linear"}


def plain(name: str) -> str:
    """A function's name without what says how it is called: add for add_, __iadd__, __radd__ and add.default."""
    bare = name.partition(".")[0].strip("_")
    return bare[1:] if bare[:1] in ("i", "r") and bare[1:] in ARITHMETIC else bare


def spellings(name: str) -> tuple[str, ...]:
    """The names of functions that are `name` when they are plain."""
    return name, f"{name}_", f"__{name}__", f"__i{name}__", f"__r{name}__"


def kind(name: str, several: bool) -> str:
    """activation, norm, conv, linear, alike (the map is passed on as it is, or scaled), add, mul, cat or other.

    several: whether more than one of the tensors that go in depend on the images.
    """
    if name in ACTIVATIONS and not (several and name == "maximum"):
        return "activation"
    if name.endswith(NORMS):
        return "norm"
    if name.startswith("conv"):
        return "conv"
    if name in CONVERSIONS or name in DROPOUTS or (name in ARITHMETIC and not several):
        return "alike"
    return KINDS.get(name, "other")

"""A student as one file that other programs run: safetensors, PyTorch's pt2 or ONNX, checked before it is there."""

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor, nn

from overhaul.discovery import logits_of
from overhaul.hub.config import preprocessing, usual_size
from overhaul.hub.entries import net_entries
from overhaul.hub.students import packed, plain_state
from overhaul.hub.weights import Weights, build, fetch, fetch_named
from overhaul.recipe import Net
from overhaul.system.files import folder_beside
from overhaul.system.messages import UserError, choose, first_line

LIMITS = {"safetensors": 1e-5, "pt2": 1e-5, "onnx": 1e-4}  # of a logit's difference, as a share of the largest logit
BATCHES = (1, 3)  # checked; the one traced is of 2 images
OPSET = 18  # of ONNX, from 2022: the one that PyTorch's exporter writes without converting


def export(source: Net | str, form: str, out: str | Path) -> dict:
    """Write a trained network to the file `out`. source: see hub.load; a Net says more of it.

    form: safetensors (fp32), pt2 (torch.export) or onnx (images -> logits); the last two take batches of any size,
    and images of one size: normalised fp32 [batch, 3, height, width]. Each carries its config.json under that name: as
    metadata, as an extra file, as a metadata property. The file is loaded back and compared on random images first.
    Returns {"file", "format", "bytes", "difference": see logits_difference, "size": of the images, "mean", "std": None
    where the source does not say}. Raises UserError when the source cannot be loaded, the format is unknown or lacks
    its packages, `out` cannot be written, or the logits differ; then `out` stays as it was.
    """
    choose("--format", form, tuple(LIMITS))
    if form == "onnx" and not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))):
        raise UserError("--format onnx needs onnx, onnxscript and onnxruntime: pip install onnx onnxscript onnxruntime")
    out = Path(out).expanduser()
    if os.path.exists(out) and not os.path.isfile(out):  # these raise nothing where a folder may not be entered
        raise UserError(f"{out} is {'a folder' if out.is_dir() else 'no plain file'}; --out must name a file")
    weights = fetch_named(source)
    known = preprocessing(weights.config, weights.source)
    size = known.size if known else usual_size(weights.net)
    network = build(weights, size)
    try:
        with folder_beside(out) as folder:
            file = folder / f"student.{form}"
            difference = write_and_check(form, network, weights, size, file)
            file.replace(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {first_line(error)}") from None
    return {
        "file": str(out),
        "format": form,
        "bytes": out.stat().st_size,
        "difference": difference,
        "size": size,
        "mean": known and known.mean,
        "std": known and known.std,
    }


def write_and_check(form: str, network: nn.Module, weights: Weights, size: int, file: Path) -> float:
    """Write the file and load it back; see logits_difference, which UserError says to be too large."""
    config = json.dumps(weights.config or net_entries(weights.net))
    try:
        with quiet():
            write(form, network, config, size, file)
            difference = logits_difference(network, read_back(form, file, weights.net), size)
    except Exception as error:  # an exporter may raise anything
        raise UserError(f"{weights.source} cannot be exported as {form}: {first_line(error)}") from None
    if not difference <= LIMITS[form]:  # NaN fails too
        raise UserError(
            f"{weights.source} is not exported: the logits of the {form} file differ by {difference:.1g} of the "
            f"largest, and {LIMITS[form]:g} is allowed"
        )
    return difference


@contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters print, log and warn of their own doings; errors are raised all the same."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def write(form: str, network: nn.Module, config: str, size: int, file: Path) -> None:
    if form == "safetensors":
        packing = {"config.json": config}
        file.write_bytes(packed(plain_state(network), **packing))  # save_file would make it unreadable to other users
        return
    batch = ({0: torch.export.Dim("batch", min=1)},)
    program = torch.export.export(
        Plain(network.bare).eval(), (torch.zeros(2, 3, size, size),), dynamic_shapes=batch, strict=False
    )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # else the file names folders of this machine
    if form == "pt2":
        torch.export.save(program, file, extra_files={"config.json": config})
        return
    import onnx

    names = {"input_names": ["images"], "output_names": ["logits"], "dynamic_shapes": batch}
    model = torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False, **names).model_proto
    onnx.helper.set_model_props(model, {"config.json": config})
    onnx.save(model, file)  # one file always: it raises where torch would put large weights into a second


class Plain(nn.Module):
    """A network that gives its logits alone, whatever else it gives."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return logits_of(self.net(images))


def read_back(form: str, file: Path, net: Net) -> Callable[[Tensor], Tensor]:
    """The file as a function from images to logits."""
    if form == "safetensors":
        return build(fetch(str(file), net))
    if form == "pt2":
        return torch.export.load(file).module()
    from onnxruntime import InferenceSession

    session = InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


@torch.no_grad()
def logits_difference(network: nn.Module, exported: Callable[[Tensor], Tensor], size: int) -> float:
    """The largest difference between their logits, as a share of the network's largest logit, over random images."""
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(batch, 3, size, size, generator=generator) for batch in BATCHES]
    wanted, found = (torch.cat([function(images) for images in batches]) for function in (network, exported))
    return ((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30)).item()

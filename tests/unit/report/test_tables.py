"""What the commands print: lines that move no terminal's cursor, whatever the files and classes are called."""

import json

from PIL import Image

from overhaul.hub import save
from overhaul.setups import SETUPS

NAME = "\x1b[2J\u202e\u2066\u200b\u200f"


def test_names_of_classes_and_files_are_printed_without_what_moves_a_cursor(tmp_path, network, overhaul):
    """As JSON they are what they are, in ASCII."""
    classes = [f"{number}{NAME}x" for number in range(10)]
    save(tmp_path / "student", network, SETUPS["digits"], classes)
    image = str(tmp_path / f"a{NAME}\n.png")
    Image.new("RGB", (16, 16)).save(image)
    (tmp_path / "names.txt").write_text("\n".join(classes))
    config = tmp_path / "student" / "config.json"
    for named in ((), ("--class_names", tmp_path / "names.txt")):
        result = overhaul("predict", tmp_path / "student", image, "--top", 10, *named)
        assert result.status == 0 and result.out[:-1].isprintable() and result.out.count("x ") == 10, result
        config.write_text(json.dumps({**json.loads(config.read_text()), "label_names": None}))
    answer = overhaul("predict", tmp_path / "student", image, "--class_names", tmp_path / "names.txt", "--json")
    assert answer.out.isascii() and json.loads(answer.out)["image"] == image
    result = overhaul("export", tmp_path / "student", "--format", "safetensors", "--out", tmp_path / f"b{NAME}")
    assert result.status == 0 and result.out[:-1].isprintable(), result

"""Text with nothing in it that is Markdown or HTML, and tables of it."""

import re

from overhaul.system.messages import printable


def escaped(text: str) -> str:
    """With backslashes before what Markdown or HTML would take for its own."""
    return re.sub(r"([\\`*\[\]<>|~&])|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)


def markdown_table(rows: list[tuple[str, ...]]) -> str:
    """Rows of plain text under their head."""
    lines = [f"| {' | '.join(escaped(printable(cell)) for cell in row)} |" for row in rows]
    return "\n".join([lines[0], f"|{'---|' * len(rows[0])}", *lines[1:]])

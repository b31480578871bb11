"""Finds sentences that are hard to read, in the pages and in the docstrings and comments of ``src``.

``python .ci/prose.py [FILE ...]`` prints each one with its place, and exits with 1 if there are any. A sentence has at
most 25 words. It makes one claim, so it has no semicolon. It begins with its subject, so neither with "Of" nor with
"What", unless it is a question. Some phrases make a reader look back: no sentence uses them.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

MOST_WORDS = 25
BEGINNINGS = re.compile(r"(Of|What)\b[^?]*$")
PHRASES = re.compile(
    r"\b(that of|those of|anew|whoever|so many|so much|one that|ones that|the same as that|"
    r"told of|what is (?!not\b)\w+ (?:of|by)|beside one another|in turn behind)\b",
    re.IGNORECASE,
)
# A sentence ends at . ! ? before a blank and a capital, a figure or a mark; "e.g. x" does not end one.
END = re.compile(r"(?<=[.!?])[)\"*_”]*\s+(?=[\"(*_`“]*[A-Z0-9])")
NOT_PROSE = re.compile(r"\s*(\||>>>|!\[|<|\$\$|#|:::|--8<--)")


def blocks(text: str) -> Iterator[tuple[int, str]]:
    """Line numbers and texts of the paragraphs and list items outside of code, tables and formulas."""
    fenced, start, lines = False, 0, list[str]()
    for number, line in enumerate([*text.splitlines(), ""], 1):
        fence = line.lstrip().startswith(("```", "$$"))
        item = re.match(r"\s*([-*]|\d+\.)\s+|\s*\w+(, \w+)*: (?=\S)", line)
        if fence or fenced or not line.strip() or NOT_PROSE.match(line) or item:
            if lines:
                yield start, " ".join(lines)
            lines = []
        if fence:
            fenced = not fenced
        elif not fenced and line.strip() and not NOT_PROSE.match(line):
            start = start if lines else number
            lines.append(line.strip() if not item else line[item.end() :].strip())


def faults(text: str) -> Iterator[tuple[int, str, str]]:
    """Line number, fault and sentence, for each sentence at fault."""
    for line, block in blocks(text):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|``?([^`]*)``?", lambda m: m[1] or "code", block)
        for sentence in END.split(plain):
            words = len(re.findall(r"[A-Za-z][\w'’/-]*", sentence))
            if words > MOST_WORDS:
                yield line, f"{words} words", sentence
            if BEGINNINGS.match(sentence):
                yield line, "begins without its subject", sentence
            if ";" in sentence:
                yield line, "two claims", sentence
            for phrase in PHRASES.findall(sentence):
                yield line, f'"{phrase}"', sentence


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers and texts to read in a file: all of a page; docstrings and comments of a module."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield 1, text
        return
    for node in ast.walk(ast.parse(text)):
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.lineno, value.value
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# ")


def main(names: list[str]) -> int:
    """Checks the named files, or all; returns the exit status."""
    pages = [*Path().glob("*.md"), *Path("docs").glob("*.md"), *Path("src").rglob("*.py")]
    found = 0
    for path in map(Path, names) if names else sorted(pages):
        for first, text in prose(path):
            for line, fault, sentence in faults(text):
                found += 1
                print(f"{path}:{first + line - 1}: {fault}: {sentence}")
    return min(found, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Finds sentences that are hard to read, in the pages and in the docstrings and comments of ``src``.

``python .ci/prose.py [FILE ...]`` prints each one with its place, and exits with 1 if there are any. A sentence has at
most 25 words. It makes one claim, so it has no semicolon. It begins with its subject, so neither with "Of" nor with
"What", unless it is a question. Some phrases make a reader look back, so no sentence uses them.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

MOST_WORDS = 25
BEGINNINGS = re.compile(r"(Of|What)\b[^?]*$")
PHRASES = re.compile(r"(?i)\b(that of|those of|anew|whoever|so many|so much|ones? that|told of)\b")
# A sentence ends at . ! ? before a blank and a capital, a figure or a mark; "e.g. x" does not end one.
END = re.compile(r"(?<=[.!?])[)\"*_”]*\s+(?=[\"(*_`“]*[A-Z0-9])")
NOT_PROSE = re.compile(r"\s*(\||>>>|!\[|<|\$\$|#|:::)")  # tables, pictures, formulas
ITEM = re.compile(r"^\s*([-*]\s+|\d+\.\s+|\w+(, \w+)*: (?=\S))")


def blocks(text: str) -> Iterator[tuple[int, str]]:
    """Line numbers and texts of the paragraphs and list items outside of code, tables and formulas."""
    fenced, start, lines = False, 0, list[str]()
    for number, line in enumerate([*text.splitlines(), ""], 1):
        fence = line.lstrip().startswith(("```", "$$"))
        prose = not (fence or fenced or not line.strip() or NOT_PROSE.match(line))
        if lines and (not prose or ITEM.match(line)):
            yield start, " ".join(lines)
            lines = []
        if prose:
            start = start if lines else number
            lines.append(ITEM.sub("", line, count=1).strip())
        fenced ^= fence


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
    """Line numbers and texts to read in a file: all of a page, or docstrings and comments of a module."""
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


if __name__ == "__main__":
    pages = [*Path().glob("*.md"), *Path("docs").glob("*.md"), *Path("src").rglob("*.py")]
    found = 0
    for path in map(Path, sys.argv[1:] or sorted(pages)):
        for first, text in prose(path):
            for line, *fault in faults(text):
                found += 1
                print(f"{path}:{first + line - 1}", *fault, sep=": ")
    sys.exit(min(found, 1))

"""What the site needs beyond mkdocs: pages from elsewhere in the repository, links to code, equations."""

from __future__ import annotations

import ast
import html
import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]

ELSEWHERE = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "tests/README.md": "tests.md",
}
"""Files that lie outside of docs/, and their pages."""

API = [
    *("config", "tasks", "tasks.sources", "tasks.humanoid_bench", "statistics"),
    *("agent", "agent.world_model", "agent.planning", "agent.learning"),
    *("experience", "runs", "acting", "training", "control", "report", "watching"),
]
"""Modules and packages of ezm that have a page."""

_LOG = logging.getLogger("mkdocs.hooks.ezm")  # a warning fails a strict build

_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_EQUATION = re.compile(r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>', re.DOTALL)
_OUTSIDE = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=\"?https?:[^>]*>")
_ROLE = re.compile(r":(?:func|class|meth|mod|data|attr|exc):<code>~?([^<]*)</code>")
_NAME = re.compile(r"<code>(ezm(?:\.\w+)+)</code>(?!</a)")
_OPTION = re.compile(r"<code>(?=--[^<\s]+</code>)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not in docs/: other files, and the API reference."""
    for source, page in ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for name in API:
        files.append(File.generated(config, _page(name), content=_reference(name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links out of docs/ into links to the pages that show the same; others become plain text."""
    here = page.file.src_uri
    source = {page: source for source, page in ELSEWHERE.items()}.get(here, f"docs/{here}")

    def site_link(link: re.Match[str]) -> str:
        text, (path, _, anchor) = link[1], link[2].partition("#")
        if not path or ":" in path:
            return link[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if target.startswith("src/ezm/") and target.endswith(".py"):
            module = target.removeprefix("src/").removesuffix(".py").replace("/", ".")
            target, anchor = _page_of(module), f"{module}.{anchor}" if anchor else module
        elif target in ELSEWHERE:
            target = ELSEWHERE[target]
        elif target.startswith("docs/"):
            target = target.removeprefix("docs/")
        else:
            return text
        relative = posixpath.relpath(target, posixpath.dirname(here) or ".")
        return f"[{text}]({relative}{'#' + anchor if anchor else ''})"

    return _LINK.sub(site_link, markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Equations as MathML, which browsers draw by themselves; names of ezm lead to the reference."""

    def equation(match: re.Match[str]) -> str:
        display = "block" if match[1] == "div" else "inline"
        mathml = convert(html.unescape(match[2]).strip(), display=display)
        if "\\" in mathml:
            _LOG.warning("an equation has what latex2mathml does not know: %s", match[2].strip())
        return f'<div class="equation">{mathml}</div>' if display == "block" else mathml

    content = _ROLE.sub(r"<code>\1</code>", _EQUATION.sub(equation, content))
    content = _OPTION.sub('<code class="option">', content)
    return _NAME.sub(r'<autoref optional identifier="\1"><code>\1</code></autoref>', content)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Warn of what would be fetched from elsewhere: the site works without a network."""
    for element in _OUTSIDE.findall(output):
        _LOG.warning("%s would fetch %s", page.file.src_uri, element)
    return output


def _page(name: str) -> str:
    return f"api/{name.replace('.', '-')}.md"


def _page_of(module: str) -> str:
    """The page that documents a module."""
    name = module.removeprefix("ezm.")
    return _page(max((each for each in API if f"{name}.".startswith(f"{each}.")), key=len))


def _reference(name: str) -> str:
    """A module, or a package and its modules one after the other."""
    folder = ROOT / "src/ezm" / name.replace(".", "/")
    options = ["show_root_heading: false", "show_root_toc_entry: false"]  # the page has that title
    if folder.is_dir():
        # What a package imports is documented where it is defined.
        own = ast.parse((folder / "__init__.py").read_text()).body
        names = [each.name for each in own if isinstance(each, ast.FunctionDef | ast.ClassDef)]
        options.append(f"members: {[n for n in names if n[0] != '_'] or 'false'}")
    blocks = [
        f"# ezm.{name} {{ #ezm.{name} }}",
        "\n      ".join([f"::: ezm.{name}\n    options:", *options]),
        *sorted(f"::: ezm.{name}.{path.stem}" for path in folder.glob("[!_]*.py")),
    ]
    return "\n\n".join(blocks) + "\n"

"""What the documentation site does beyond MkDocs: pages from the repository's root, links, public
names, formulas, roles in docstrings."""

import os
import re
from fnmatch import fnmatch
from html import unescape
from pathlib import Path
from typing import Any

import griffe
from math_core import LatexToMathML
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
ROOT_PAGES = {
    ROOT / "README.md": "index.md",
    ROOT / "CONTRIBUTING.md": "contributing.md",
    ROOT / "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"(!?\[[^\[\]]*\])\((?!\w+:|#)([^)#]*)(#[^)]*)?\)")
NAMES = re.compile(r"^::: (.+)\.(\w*\*\w*)$", flags=re.MULTILINE)
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', flags=re.DOTALL)
ROLE = re.compile(r":(?:class|meth|func|mod|data|attr):`(~?)([^`]+)`")


def on_files(files: Any, config: Any) -> Any:
    """Make pages of README.md and its neighbours, which people and package indexes look for at the
    root."""
    for source, page in ROOT_PAGES.items():
        files.append(
            File.generated(config, page, content=site_links(source.read_text(), ROOT, DOCS))
        )
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Adapt the links of a page, and write out directives such as ``::: mnm_rl.*Core``: one for
    each public name."""
    if page.file.abs_src_path is None:
        return markdown
    folder = Path(page.file.abs_src_path).parent
    return NAMES.sub(
        lambda directive: public(*directive.groups()), site_links(markdown, folder, folder)
    )


def on_page_content(html: str, **_: Any) -> str:
    """Set formulas in MathML, which browsers show without a script."""
    convert = LatexToMathML().convert_with_local_state

    def formula(match: re.Match[str]) -> str:
        tag, tex = match.groups()
        displayed = tag == "div"
        mathml = convert(unescape(tex), displaystyle=displayed)
        return f'<div class="formula">{mathml}</div>' if displayed else mathml

    return FORMULA.sub(formula, html)


def site_links(markdown: str, folder: Path, page: Path) -> str:
    """Change the links of a file in ``folder`` to those of its page in the folder ``page``; drop
    those to folders and sources."""

    def change(link: re.Match[str]) -> str:
        text, target, anchor = link.groups()
        path = (folder / target).resolve()
        path = DOCS / ROOT_PAGES[path] if path in ROOT_PAGES else path
        if path.is_dir() or not path.is_relative_to(DOCS):
            return text[1:-1]
        return f"{text}({os.path.relpath(path, page)}{anchor or ''})"

    return LINK.sub(change, markdown)


def public(package: str, pattern: str) -> str:
    names = griffe.load(package, search_paths=[str(ROOT)]).exports or []
    return "\n\n".join(
        f"::: {package}.{name}" for name in map(str, names) if fnmatch(name, pattern)
    )


class Roles(griffe.Extension):
    """Turns roles in docstrings, such as ``:class:`MnmCore```, into links where the site has the
    name, and else into code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            scope = obj if obj.is_class or obj.is_module else obj.parent
            obj.docstring.value = ROLE.sub(
                lambda role: _link(role[2], bool(role[1]), scope), obj.docstring.value
            )


def _link(name: str, last_part_only: bool, scope: Any) -> str:
    identifier = name if "." in name.strip(".") else f"{scope.path}.{name.strip('.')}"
    shown = name.rpartition(".")[2] if last_part_only else name
    return f'<autoref optional identifier="{identifier}"><code>{shown}</code></autoref>'

"""A hook of MkDocs: pages that lie outside docs/, and links and fences as the hosts of repositories read them.

Each page is written once, for readers of the repository; the site takes it as it is.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
OUTSIDE = {
    "README.md": "index.md",
    **{
        name: name for name in ("RESULTS.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "recipes/README.md")
    },
}
"""From the path in the repository to that in the site."""
SOURCES = {page: source for source, page in OUTSIDE.items()}


def on_files(files: Any, config: Any) -> Any:
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    uri = page.file.src_uri
    source = SOURCES.get(uri, f"docs/{uri}")

    def in_the_site(link: re.Match[str]) -> str:
        path, hash_, anchor = link[1].partition("#")
        if not path or ":" in path:
            return link[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        target = OUTSIDE.get(target, target.removeprefix("docs/"))
        return f"]({posixpath.relpath(target, posixpath.dirname(uri) or '.')}{hash_}{anchor})"

    # What follows a fence's language is for the tests, and no fence of MkDocs has it.
    return re.sub(r"^(```\w+) .*$", r"\1", re.sub(r"\]\(([^)\s]+)\)", in_the_site, markdown), flags=re.MULTILINE)

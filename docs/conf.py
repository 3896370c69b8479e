"""Sphinx configuration; also writes tables and pages, from committed results."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from sphinx.util import logging

from segzoo import __version__

HERE = Path(__file__).parent
# Neither benchmarks nor what is beside this file are installed with the package.
sys.path[:0] = [str(HERE.parent), str(HERE)]

project = "segzoo"
author = "The segzoo authors"
copyright = "The segzoo authors"
version = release = __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "benchmarks.tutorials.extension",
]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "generated"]
html_theme = "furo"
pygments_dark_style = "github-dark"  # of Pygments; furo's own choice underlines modules
html_title = "segzoo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = ["versions.js"]
html_favicon = "../segzoo/pages/assets/icon.svg"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
nitpicky = False

importlib.import_module("benchmarks.tables").write_all(HERE / "generated")
importlib.import_module("benchmarks.architecture_pages").write_pages(
    HERE / "architectures"
)


# A trained model at work on the first page; without it that page says why, and shows a picture.
SITE = HERE / "generated" / "site"
no_live_page = importlib.import_module("live").write_live(SITE)
html_extra_path = ["versions.json"] + ([] if no_live_page else [str(SITE)])

#: Page -> what only it loads.
FILES_OF = {
    "index": ("first-page.css", "first-page.js"),
    "encoders": ("encoders.css", "encoders.js"),
}


def setup(app):
    if no_live_page:
        logging.getLogger(__name__).info(
            "The first page has no live model: %s", no_live_page
        )
    else:
        app.tags.add("live")
    app.connect("html-page-context", add_files)


def add_files(app, pagename, templatename, context, doctree):
    for name in FILES_OF.get(pagename, ()):
        add = app.add_css_file if name.endswith(".css") else app.add_js_file
        add(name)

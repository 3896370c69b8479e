"""Sphinx configuration; also writes tables and pages, from committed results."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from segzoo import __version__

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # benchmarks are not installed with the package

project = "segzoo"
author = "The segzoo authors"
copyright = "The segzoo authors"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "generated"]
html_theme = "furo"
html_title = "segzoo"
html_static_path = ["static"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
nitpicky = False

importlib.import_module("benchmarks.tables").write_all(HERE / "generated")
importlib.import_module("benchmarks.architecture_pages").write_pages(HERE / "architectures")


def setup(app):
    app.connect("html-page-context", add_the_search_of_encoders)


def add_the_search_of_encoders(app, pagename, templatename, context, doctree):
    if pagename == "encoders":
        app.add_js_file("encoders.js")
        app.add_css_file("encoders.css")

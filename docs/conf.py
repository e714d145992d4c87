"""Sphinx settings of the documentation site: `make docs` builds it, with warnings as errors and without a network."""

import os
from pathlib import Path

from sphinx.application import Sphinx

import robustprobe

project = "robustprobe"
author = "The robustprobe authors"
release = robustprobe.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"robustprobe {release}"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["tables.css"]
exclude_patterns = ["_build", "jupyter_execute"]

# Headings are link targets by their text, as on GitHub; a link to a missing page or heading is a warning, so an error.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

# Notebooks run in each build, so that their output is that of this version. Nothing is loaded from another site.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_ipywidgets_js: dict[str, str] = {}
# tqdm warns in notebooks without ipywidgets, which nothing here needs.
os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress")

# Docstrings write code in single backticks.
default_role = "code"
autodoc_typehints = "description"
autodoc_member_order = "bysource"


def _write_command_line(app: Sphinx) -> None:
    """The reference of the command line, from the program itself; git ignores the file."""
    from robustprobe.cli import app as program

    text = program.generate_docs(output_format="markdown")
    path = Path(app.srcdir) / "reference" / "command-line.md"
    # The table of contents of the page repeats the sidebar's.
    start, end = text.index("## Table of Contents"), text.index("**Evaluate**")
    page = (text[:start] + text[end:]).replace("# robustprobe\n", "# Command line\n", 1)
    if not path.exists() or path.read_text(encoding="utf-8") != page:
        path.write_text(page, encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Writes the generated page before Sphinx looks for sources."""
    _write_command_line(app)

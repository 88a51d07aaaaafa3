"""How the documentation is built: `scripts/docs`."""

import abs_dssp

project = "abs_dssp"
author = "the abs_dssp developers"
version = release = abs_dssp.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
html_theme = "sphinx_book_theme"
html_title = "abs_dssp"
html_theme_options = {"show_toc_level": 2, "home_page_in_toc": True}

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

# The examples run while the pages are made; one that fails fails the build.
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_execution_timeout = 300
nb_execution_show_tb = True
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # shapes and units stand in the text
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # an attribute is described once, by its class


_SECTIONS = {"Args:", "Attributes:", "Example:", "Raises:", "Returns:"}


def _rendered(app, what, name, obj, options, lines):
    """Formulas, which are indented, keep their lines; bars in text are only bars."""
    made = []
    in_text, literal = True, False
    for number, line in enumerate(lines):
        in_text = in_text and line.strip() not in _SECTIONS
        indented = line.startswith(" ")
        if line.strip():
            begins = in_text and indented and number and not lines[number - 1].strip()
            if begins and not literal:
                made += ["::", ""]
            literal = in_text and indented
        made.append(line if literal else line.replace("|", "\\|"))
    lines[:] = made


def _without_aliases(app, what, name, obj, skip, options):
    """Fields of a NamedTuple that say only which number they have."""
    bare = (getattr(obj, "__doc__", None) or "").startswith("Alias for field number")
    return True if bare else None


def setup(app):
    app.connect("autodoc-skip-member", _without_aliases)
    app.connect("autodoc-process-docstring", _rendered, priority=100)

"""Sphinx's settings for the website; build.py writes the sources."""

import re

from docutils import nodes
from latex2mathml import converter

project, author, copyright = "busi-notebooks", "the maintainers of busi-notebooks", "the maintainers of busi-notebooks"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
language = "en-GB"
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
nb_execution_mode = "off"  # the stored outputs are shown
nb_ipywidgets_js = {}  # no page loads anything from elsewhere
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type"]
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_default_options = {"undoc-members": False}
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_ivar = True
html_theme = "sphinx_book_theme"
html_title = "busi-notebooks"
html_static_path = ["static"]
html_favicon = "static/favicon.svg"
html_context = {"default_mode": "auto"}
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_last_updated_fmt = None
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "navbar_persistent": [],  # the sidebar has a search field already
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "extra_footer": "<p>For teaching and research, not for diagnosis.</p>",
}


def mathml(translator, node):
    """Write a formula as MathML, which browsers show by themselves."""
    display = "block" if node.tagname == "math_block" else "inline"
    translator.body.append(converter.convert(node.astext(), display=display))
    raise nodes.SkipNode


def plain(app, what, name, thing, options, lines):
    """Docstrings hold code in single backticks, and bars that are no markup."""
    text = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", "\n".join(lines))
    pieces = re.split(r"(``.*?``)", text, flags=re.S)
    pieces[::2] = [piece.replace("|", r"\|") for piece in pieces[::2]]
    for place in range(1, len(pieces), 2):  # a letter behind a literal would keep it open
        pieces[place] += r"\ " * bool(re.match(r"\w", pieces[place + 1]))
    lines[:] = "".join(pieces).split("\n")


def skip(app, what, name, thing, skipped, options):
    """Leave out what scikit-learn adds to each of its classifiers."""
    return True if re.fullmatch(r"set_\w+_request", name) else None


def setup(app):
    """Sphinx calls this."""
    app.connect("autodoc-process-docstring", plain)
    app.connect("autodoc-skip-member", skip)
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))


html_math_renderer = "mathml"

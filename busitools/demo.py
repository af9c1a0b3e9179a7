"""``busi demo``: lesson 13's page alone, served by Voilà. Each visitor has a kernel of their own.

The page is the lesson's own cells, those that are tagged "demo", so that nothing is written twice.
"""

import contextlib
import json
import os
import tempfile
from pathlib import Path

import nbformat

from busilib.errors import LessonError
from busitools import notebooks

TITLE = """# Try a scan

Pick a scan or upload a picture, and see what a model of these lessons says about it.
*For teaching and research, not for diagnosis.*"""
# Voilà's own template loads two style sheets from elsewhere; JupyterLab's extensions are none of a visitor's business.
TEMPLATE = """{%- extends 'lab/index.html.j2' -%}
{% import "spinner.macro.html.j2" as spinner %}
{%- block notebook_css -%}
{{ resources.include_js("static/voila-style.js") }}{{ spinner.css() }}
<style>.jp-mod-noOutputs.jp-mod-noInput {display: none} #rendered_cells {max-width: 1100px; margin: auto}</style>
{{ super.super() }}
{%- endblock notebook_css -%}"""
EXTENSIONS = ["@jupyter-widgets/jupyterlab-manager", *(f"@voila-dashboards/widgets-manager{n}" for n in (7, 8))]
IDLE = 1800  # seconds after which the kernel of a visitor who has gone is ended
LARGEST = 64 * 2**20  # bytes of a message: a file that is too large gets the lesson's sentence, and the page stays


def page(given=None):
    """Return the page as a notebook, with other parameters for the lesson; only its last cell shows anything.

    Raises LessonError for a parameter that the lesson does not have.
    """
    path = notebooks.lessons(["13"])[0]
    given = notebooks.check_parameters(path, given or {})
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if "demo" in cell.metadata.get("tags", [])]
    code = [cell for cell in cells if cell.cell_type == "code"]
    for cell in code:
        cell.outputs, cell.execution_count = [], None
        if "parameters" in cell.metadata.tags:
            cell.source += "".join(f"\n{name} = {value!r}" for name, value in given.items())
    for cell in code[:-1]:
        cell.source = f"%%capture\n{cell.source}"
    first = nbformat.v4.new_markdown_cell(TITLE)
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return nbformat.v4.new_notebook(cells=[first, *cells], metadata=kernel)


def serve(given=None, ip="127.0.0.1", port=8866):
    """Serve the page until it is stopped. Raises LessonError where Voilà is missing.

    ``ip``: who may come: "127.0.0.1" this machine alone, "0.0.0.0" the whole network.
    """
    try:
        from voila.app import Voila
    except ModuleNotFoundError as error:
        raise LessonError("The page needs Voilà: pip install 'busi-notebooks[demo]'") from error
    with tempfile.TemporaryDirectory(prefix="busitools-") as folder:
        nbformat.write(page(given), Path(folder) / "try_a_scan.ipynb")
        settings = {
            "Voila": {"ip": ip, "port": port, "open_browser": False},
            "VoilaConfiguration": {"extension_allowlist": EXTENSIONS, "template": "busi"},
            "MappingKernelManager": {"cull_idle_timeout": IDLE, "cull_interval": 60},
        }
        settings["Voila"]["tornado_settings"] = {"websocket_max_message_size": LARGEST}
        (Path(folder) / "voila.json").write_text(json.dumps(settings), encoding="utf-8")
        template = Path(folder) / "voila" / "templates" / "busi"
        template.mkdir(parents=True)
        (template / "index.html.j2").write_text(TEMPLATE, encoding="utf-8")
        (template / "conf.json").write_text('{"base_template": "lab"}', encoding="utf-8")
        os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, (folder, os.environ.get("JUPYTER_PATH"))))
        with contextlib.chdir(folder):
            Voila.launch_instance(["try_a_scan.ipynb"])

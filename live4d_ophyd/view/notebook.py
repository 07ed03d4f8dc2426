"""``show``: a run of the catalog in Jupyter, by the components of the pages.

In: a run. Out: a Bokeh application in the notebook. The kernel's thread, and those of a `Background`.
"""

from __future__ import annotations

from typing import Any


def show(run: Any, *, catalog: str | None = None, notebook_url: str = "localhost:8888") -> None:
    """Show a run in a notebook: its images, a slider over its Events, recorded patterns and drawn detectors.

    Parameters
    ----------
    run
        As `describe` takes it: ``db[-1]``, or a uid, its first characters, a scan id, -1.
    catalog
        Where a run that is not a client is looked up, as in `describe`.
    notebook_url
        HOST:PORT at which the browser has Jupyter. The kernel opens a second port for the page, at loopback of its
        machine. Where the browser is on another one, as with a JupyterHub, jupyter-server-proxy takes it there, and
        $JUPYTER_BOKEH_EXTERNAL_URL has the address of the hub.

    Raises
    ------
    NoSuchRun, NoImages
        There is no such run; it has no images over a scan.
    RuntimeError
        This is no notebook, or Bokeh is not installed.

    Examples
    --------
    >>> show(db[-1])  # doctest: +SKIP
    """
    try:
        import bokeh.io
    except ModuleNotFoundError as error:
        raise RuntimeError("show needs Bokeh: pip install 'live4d-ophyd[view]'") from error
    from IPython import get_ipython

    from live4d_ophyd.runs.find import find_run
    from live4d_ophyd.storage import existing_catalog
    from live4d_ophyd.view.background import Background
    from live4d_ophyd.view.run_view import RunView
    from live4d_ophyd.view.saved_run import SavedRun

    if not hasattr(get_ipython(), "kernel"):
        raise RuntimeError("show(run) is for a Jupyter notebook; `live4d view` shows runs in any browser")
    client = run if hasattr(run, "metadata") else find_run(existing_catalog(catalog), run)
    saved, background = SavedRun(client), Background()

    def page(document: Any) -> None:
        view = RunView(document, saved, background)
        document.add_root(view.layout)
        document.on_session_destroyed(lambda context: view.close())

    bokeh.io.output_notebook(hide_banner=True)
    # Without an address other machines would reach it, and it asks for no token.
    bokeh.io.show(page, notebook_url=notebook_url, address="127.0.0.1")

"""Images in a browser: the run that goes on, runs of the catalog, and recorded frames of those.

Comes in: documents of a session over 0MQ, a catalog. Goes out: pages of a Bokeh server, which nobody can change a run,
a session or a catalog from. Bokeh is an extra, ``view``: this file imports nothing.
"""

"""IPython's own settings."""

c = get_config()  # noqa: F821  IPython provides it
c.TerminalIPythonApp.display_banner = False  # 90-preview.py says what to type first
# A traceback through Bluesky's preprocessors has hundreds of lines, the message is what helps. `%tb Context`
# shows the last one in full.
c.InteractiveShell.xmode = "Minimal"

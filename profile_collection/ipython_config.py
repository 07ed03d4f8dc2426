"""IPython's own settings."""

c = get_config()  # noqa: F821  IPython provides it
c.TerminalIPythonApp.display_banner = False  # 90-preview.py says what to type first

"""Theme: colours of the window, which is dark and neutral, as eyes that judge contrast need it. Values only."""

from __future__ import annotations

BACKGROUND, PANEL, RAISED = "#1b1c1e", "#232427", "#2e3034"
TEXT, FAINT = "#e6e6e6", "#9a9da3"
ACCENT = "#4da3ff"
#: no grey: a missing position must not look like a value
NOT_SEEN, LOST = "#33475c", "#e5383b"
WARN = "#f2a33a"
#: of virtual detectors, in their order: told apart on black and on grey, also by most colour-blind eyes
DETECTORS = ("#3ddbd9", "#ffb000", "#a6e22e", "#ff6fb5", "#82b1ff", "#fff07c", "#c792ea", "#ff8a65")
CALIBRATION = "#ffffff"
#: in menus: name, and what pyqtgraph or matplotlib call it
COLOR_MAPS = ("gray", "inferno", "viridis", "magma", "cividis", "RdBu_r")

STYLE = f"""
* {{ font-size: 12px; }}
QMainWindow, QWidget {{ background: {BACKGROUND}; color: {TEXT}; }}
QFrame#panel {{ background: {PANEL}; border: 1px solid #2b2c30; border-radius: 5px; }}
QFrame#panel[selected="true"] {{ border: 1px solid {ACCENT}; }}
QFrame#panel QLabel {{ background: transparent; }}
QToolBar {{ background: {PANEL}; border: none; spacing: 4px; padding: 4px; }}
QToolButton, QPushButton {{ background: {RAISED}; border: 1px solid #3a3c41; border-radius: 4px; padding: 4px 9px; }}
QToolButton:hover, QPushButton:hover {{ border-color: {ACCENT}; }}
QToolButton:checked {{ background: #24476b; border-color: {ACCENT}; }}
QToolButton:disabled {{ color: #66696e; }}
QComboBox {{ background: {RAISED}; border: 1px solid #3a3c41; border-radius: 4px; padding: 3px 6px; }}
QComboBox QAbstractItemView, QMenu {{ background: {RAISED}; color: {TEXT}; selection-background-color: #24476b; }}
QListWidget, QTreeWidget {{ background: {PANEL}; border: 1px solid #2b2c30; border-radius: 5px; outline: none; }}
QTreeWidget::item {{ padding: 2px 0; }}
QHeaderView::section {{ background: {PANEL}; color: {FAINT}; border: none; padding: 3px 4px; }}
QListWidget::item:selected, QTreeWidget::item:selected {{ background: #24476b; color: {TEXT}; }}
QStatusBar {{ background: {PANEL}; }}
QStatusBar::item {{ border: none; }}
QProgressBar {{ background: {RAISED}; border: none; border-radius: 3px; height: 8px; }}
QProgressBar::chunk {{ background: {ACCENT}; border-radius: 3px; }}
QSplitter::handle {{ background: {BACKGROUND}; }}
QToolTip {{ background: {RAISED}; color: {TEXT}; border: 1px solid #3a3c41; }}
"""

"""Where frames come from, one package a source."""

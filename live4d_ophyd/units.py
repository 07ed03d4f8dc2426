"""Units of length by the names that scans, lenses and files give them."""

#: of a unit, m
METRES = {
    "m": 1.0, "mm": 1e-3, "um": 1e-6, "µm": 1e-6, "μm": 1e-6, "nm": 1e-9, "A": 1e-10, "Å": 1e-10, "pm": 1e-12,
}  # fmt: skip
ANGSTROM_M = 1e-10

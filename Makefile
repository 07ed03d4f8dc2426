# Two commands do everything: `make demo` and `make test`. Each makes the environment it needs.
PYTHON ?= python3
VENV   ?= .venv
TICKIT := .venv-tickit
MUTANTS := .venv-mutants
READERS := .venv-readers
ORACLES := .venv-oracles
QUANTEM := .venv-quantem
ABTEM := .venv-abtem
# Whole runs wait half of their time: five workers keep two cores busy.
WORKERS ?= 5
# of `make mutants`: how many are tested, and which
SAMPLE ?= 400
SEED   ?= 7
BIN    := $(VENV)/bin
# Into an environment, what: by uv, which takes a tenth of pip's time, or by pip where uv cannot (it does not read pip.conf).
install = $(BIN)/uv pip install --quiet --python $(1)/bin/python $(2) \
	|| $(BIN)/python -m pip --python $(1)/bin/python --quiet --disable-pip-version-check install $(2)

.PHONY: help demo session test check docs gallery viewpictures bench resolve aarch64 long readers oracles quantem abtem mutants clean

help:           ## this list
	@grep -hE '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "live4d-ophyd needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary uv uv || echo 'no uv: pip takes longer'
	$(call install,$(VENV),-e .)
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(call install,$(VENV),-e '.[dev]')
	@touch $@

# The vendor's decoder has no wheels; without a C++20 compiler the tests that compare with it say that they skip.
$(VENV)/.installed-vendor: $(VENV)/.installed
	$(call install,$(VENV),-e '.[vendor]') || echo 'dectris-compression did not build (C++20 compiler needed): its tests will be skipped'
	@touch $@

# A detector that somebody else simulates. It needs an older cbor2 than we do, so an environment of its own.
$(TICKIT)/.installed: | $(VENV)/.installed
	$(PYTHON) -m venv --without-pip $(TICKIT)
	{ $(call install,$(TICKIT),'tickit-devices~=0.4.1' 'cbor2<6'); } \
		&& touch $@ || echo 'tickit-devices did not install: its tests will be skipped'

demo: $(VENV)/.installed          ## one simulated scan through everything: image, catalog, uid
	$(BIN)/live4d demo --out out/demo

session: $(VENV)/.installed       ## the IPython session: RE, live4d, plans, db
	$(BIN)/live4d session

# Without compiled modules each process compiles its own: 9 s for Tiled's server instead of 3, a hundred times.
test: $(VENV)/.installed-dev $(VENV)/.installed-vendor $(TICKIT)/.installed    ## all tests
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

check: $(VENV)/.installed-dev     ## style, types, import direction
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/.installed-docs: $(VENV)/.installed
	$(call install,$(VENV),-e '.[docs]')
	@touch $@

docs: $(VENV)/.installed-docs     ## the pages of docs/, in out/docs; a warning is an error
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs out/docs
	@echo out/docs/index.html

$(VENV)/.installed-qt: $(VENV)/.installed
	$(call install,$(VENV),-e '.[qt]')
	@touch $@

gallery: $(VENV)/.installed-qt   ## the pictures of docs/how-to, from simulated scans
	MPLBACKEND=agg $(BIN)/python docs/gallery.py
	MPLBACKEND=agg $(BIN)/python docs/parallax.py
	MPLBACKEND=agg $(BIN)/python docs/strain.py
	MPLBACKEND=agg $(BIN)/python docs/drift.py
	xvfb-run -a -s '-screen 0 1600x1000x24' $(BIN)/python docs/window.py

viewpictures: $(VENV)/.installed-dev   ## the pictures of docs/how-to/view.md, from simulated scans; wants a Chromium
	MPLBACKEND=agg $(BIN)/python docs/view.py

bench: $(VENV)/.installed-dev     ## the CPU numbers of docs/performance.md
	$(BIN)/live4d bench cpu

resolve: $(VENV)/.installed-dev   ## by hand: what pip and uv choose for a GPU
	$(BIN)/python -m pytest -q -s --noconftest tests/by_hand/resolve.py

aarch64: $(VENV)/.installed-dev   ## by hand: tests under an emulated aarch64; hours
	PYTHON=$(BIN)/python tests/by_hand/aarch64.sh

# Programs of other people, which need an older NumPy than we do. quantem's readers do without torch, which is gigabytes;
# h5py-oldest has the oldest HDF5 that there is a wheel of.
$(READERS)/.installed: Makefile
	$(PYTHON) -m venv $(READERS)
	$(READERS)/bin/python -m pip install --quiet --disable-pip-version-check uv pytest pytest-timeout \
		h5py hdf5plugin libertem py4DSTEM 'rosettasciio[hdf5]' hyperspy
	$(READERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps quantem
	$(READERS)/bin/uv pip install --quiet --python $(READERS)/bin/python --target $(READERS)/h5py-oldest \
		--no-deps --only-binary h5py --resolution lowest-direct 'h5py>=3'
	@touch $@

long: $(VENV)/.installed-dev      ## by hand: all mutations and examples of the fuzz tests, a thousand triggers, ten starts
	LIVE4D_LONG=1 ZMTP_MUTATIONS=100000 $(BIN)/python -m pytest --timeout 3600 \
		tests/decode/test_decode_fuzz.py tests/sources/dectris tests/system/survival/test_load.py \
		tests/system/test_corrected_aberrations.py

readers: $(VENV)/.installed-dev $(READERS)/.installed  ## by hand: which programs read recorded files
	PYTHONPATH=tests $(BIN)/python tests/by_hand/recorded_files.py out/readers
	$(READERS)/bin/python -m pytest -q --noconftest tests/by_hand/readers.py

# py4DSTEM says that it needs NumPy 1, and works with 2.3.
$(ORACLES)/.installed: Makefile
	$(PYTHON) -m venv $(ORACLES)
	$(ORACLES)/bin/python -m pip install --quiet --disable-pip-version-check 'numpy==2.3.5' 'libertem==0.16.0' \
		'libertem-parallax==0.1.2' h5py emdfile \
		ncempy mpire dill scikit-optimize threadpoolctl colorspacious gdown pylops
	$(ORACLES)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps 'py4DSTEM==0.14.18'
	@touch $@

oracles: $(VENV)/.installed-dev $(ORACLES)/.installed  ## by hand: our images beside those of LiberTEM and py4DSTEM
	$(BIN)/python tests/by_hand/oracles.py ours out/oracles
	$(ORACLES)/bin/python tests/by_hand/oracles.py theirs out/oracles
	$(BIN)/python tests/by_hand/strain_oracle.py ours out/oracles
	$(ORACLES)/bin/python tests/by_hand/strain_oracle.py theirs out/oracles
	PYTHONPATH=tests/imaging $(BIN)/python tests/by_hand/parallax_oracle.py ours out/oracles
	MPLBACKEND=agg $(ORACLES)/bin/python tests/by_hand/parallax_oracle.py theirs out/oracles

# Apart from the others, as it brings torch: gigabytes, where that is not the one for CPUs alone.
$(QUANTEM)/.installed: Makefile
	$(PYTHON) -m venv $(QUANTEM)
	$(QUANTEM)/bin/python -m pip install --quiet --disable-pip-version-check 'quantem==0.1.10' 'torch==2.13.0' \
		'torchvision==0.28.0' 'numpy==2.3.5' 'libertem==0.16.0' 'ptychography40==0.1.0'
	@touch $@

quantem: $(QUANTEM)/.installed oracles  ## by hand: after oracles, parallax, strain and single sidebands beside quantem
	PYTHONPATH=tests/imaging $(BIN)/python tests/by_hand/ssb_oracle.py ours out/oracles
	$(QUANTEM)/bin/python tests/by_hand/ssb_oracle.py theirs out/oracles
	$(QUANTEM)/bin/python tests/by_hand/strain_oracle.py quantem out/oracles
	$(QUANTEM)/bin/python tests/by_hand/parallax_oracle.py quantem out/oracles

$(ABTEM)/.installed: Makefile
	$(PYTHON) -m venv $(ABTEM)
	$(ABTEM)/bin/python -m pip install --quiet --disable-pip-version-check 'abtem==1.0.11' 'ase==3.29.0' 'numpy==2.4.6' \
		'scipy==1.17.1' 'numba==0.68.1' 'dask==2026.8.0' 'pyFFTW==0.15.1' 'zarr==3.1.6'
	@touch $@

abtem: $(VENV)/.installed-dev $(ABTEM)/.installed  ## by hand: our parallax and phase of patterns that abTEM simulated
	OMP_NUM_THREADS=1 $(ABTEM)/bin/python tests/by_hand/abtem_oracle.py frames out/oracles
	PYTHONPATH=.:tests/imaging $(BIN)/python tests/by_hand/abtem_oracle.py ours out/oracles

# In an environment of its own: mutmut brings tools that nothing else here needs.
$(MUTANTS)/.installed: pyproject.toml
	$(PYTHON) -m venv $(MUTANTS)
	$(MUTANTS)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' 'mutmut==3.8.1'
	@touch $@

mutants: $(MUTANTS)/.installed    ## by hand: which broken lines no test notices; over an hour
	$(MUTANTS)/bin/python tests/by_hand/chosen_mutants.py
	$(MUTANTS)/bin/python tests/by_hand/mutants.py $(SAMPLE) $(SEED)

clean:          ## remove the environment and what was made
	rm -rf $(VENV) $(TICKIT) $(MUTANTS) $(READERS) $(ORACLES) $(QUANTEM) $(ABTEM) .venv-torch mutants out build dist

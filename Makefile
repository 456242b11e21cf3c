# `make book` and `make test` do everything, set-up included.
PYTHON ?= python3
BIN := .venv/bin
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))
PICTURES := $(filter %_scenes.ipynb %_shape_subnetwork.ipynb %_shape_transfer.ipynb,$(NOTEBOOKS))
READ := _config.yml _toc.yml book notebooks results runs params sicore companion workflow benchmarks pyproject.toml
CHROMIUM := chromium chromium-browser google-chrome google-chrome-stable
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: book own-arithmetic own-pictures site reference paper test setup browser lint format benchmark faults clean

book: setup ## run the experiments at the quick scale with seeds of your own, then build the book into _build/html
	$(MAKE) --no-print-directory -j 2 own-pictures own-arithmetic
	@if [ -e _build/built ] && [ -z "$$(find $(READ) -type f -newer _build/built -not -name '*.pyc' -not -path 'runs/smoke/*' -print -quit)" ]; then \
		echo "nothing that the book is made of has changed: _build/html/index.html"; \
	else \
		mkdir -p _build && touch _build/began && \
		$(BIN)/jupyter-book build . -W -n --keep-going && mv _build/began _build/built; \
	fi

# Two experiments, which share nothing: while one has a single network to train, the other has the second core.
own-arithmetic own-pictures: own-%: setup
	$(BIN)/python -m companion run --if-changed -f params/quick.yaml -o book/runs \
		$(if $(filter pictures,$*),$(PICTURES),$(filter-out $(PICTURES),$(NOTEBOOKS)))

site: setup ## the book from the committed results, as it is published, and a zip of it, into _build/site: trains nothing
	$(BIN)/python workflow/pages.py
	$(BIN)/jupyter-book build . -W -n --keep-going
	$(BIN)/python workflow/website.py $(if $(VERSIONS),--versions $(VERSIONS))

reference: setup ## the committed tables at the quick scale, many seeds, into results/quick; stop and start it as you like: hours
	$(BIN)/python -m companion run --reference --if-changed -f params/quick.yaml -f params/reference.yaml \
		-o runs/reference $(NOTEBOOKS)

paper: setup ## the experiments at the paper's scale, into runs/paper; stop and start it as you like (book/cluster.md)
	$(BIN)/python -m snakemake --profile workflow/profiles/local $(ARGS) --config runs=params/runs.yaml $(CONFIG)

test: setup lint browser ## formatter, linter, types, tests, and every notebook at the smoke scale
	printf "%s\n" $(NOTEBOOKS) | xargs -n 3 -P 2 $(BIN)/python -m companion run --if-changed -f params/smoke.yaml
	$(BIN)/python -m pytest -n auto --maxprocesses 4
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadscope --nbval-lax --nbval-current-env -p no:cacheprovider notebooks

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

benchmark: setup ## steps and mean pooling beside plain loops, on an idle machine; the worth of verdicts and predictions
	$(BIN)/python benchmarks/step.py --agreement
	$(BIN)/python benchmarks/step.py --layers 2 12 --rounds 4 --write
	$(BIN)/python benchmarks/sweep.py --write
	$(BIN)/python benchmarks/vision.py --write
	$(BIN)/python benchmarks/pictures.py --write
	$(BIN)/python benchmarks/verdicts.py --write
	$(BIN)/python benchmarks/coverage.py --write

faults: setup ## kill experiments at random moments, break their disks, and read 10,000 odd files of each format: hours
	$(BIN)/python benchmarks/faults.py --kills 50 --write
	$(BIN)/python tests/lab/test_fuzz.py --examples 10000 --write

browser: setup # the tests look at the book in a Chromium; without one they skip that, but not where CI is set
	@for name in $(CHROMIUM); do command -v $$name && exit; done; \
	$(BIN)/playwright install --no-shell chromium || echo "no Chromium could be installed: the book is not looked at"

setup: .venv/ready

# Written last, so that an installation that was cut short is done again.
.venv/ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet pip==26.3
	$(BIN)/python -m pip install --quiet --group locked
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

clean: ## remove what was built; the store of trained models and the tables of your own runs stay
	rm -rf _build book/runs runs/smoke .snakemake

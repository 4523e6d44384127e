# The everyday commands. PYTHON=... chooses the environment.
PYTHON ?= python

.PHONY: test slow lint docs check-docs catalogue benchmarks

test:  ## everyday tests, a few minutes
	$(PYTHON) -m pytest -m "not slow"

slow:  ## the long ones
	$(PYTHON) -m pytest -m slow

lint:  ## style, types, floors
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy -p zoo_registry
	$(PYTHON) -m mypy zoo
	lint-imports

docs:  ## generated pages
	$(PYTHON) docs/generate_cli.py
	$(PYTHON) docs/generate_strategies.py

check-docs:  ## fails where a generated page is out of date
	$(PYTHON) docs/generate_cli.py --check
	$(PYTHON) docs/generate_strategies.py --check

catalogue:  ## fails where the timm catalogue has drifted from the installed timm
	$(PYTHON) plugins/zoo-timm/generate_catalogue.py --check

benchmarks:  ## what the README's figures come from
	$(PYTHON) benchmarks/listing.py

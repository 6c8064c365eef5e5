.PHONY: check test test-all tables

check:
	ruff format --check .
	ruff check .
	pyright

test:  # what does not take long
	python -m pytest -n auto -m "not slow and not long and not data"

test-all:
	python -m pytest -n auto -m "not data"

tables:  # of README.md, from results/published
	python docs/tables.py

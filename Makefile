.PHONY: check test test-all tables

check:
	ruff format --check .
	ruff check .
	pyright

test:  # what does not take long
	python -m pytest -n auto -m "not slow and not long and not data and not browser"

test-all:
	python -m pytest -n auto -m "not data and not browser"

tables:  # of README.md, from results/published
	python docs/tables.py

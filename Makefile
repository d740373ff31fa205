# Two commands matter: `make run` and `make test`. Both install what is missing.

PYTHON = $(shell tools/setup.sh --python)
PRESET ?= release
JOBS ?= $(shell nproc)
PREFIX ?= /usr/local
REPORT ?= report.html

.PHONY: run test build bench format check clean install setup sanitize

# Exit code 1 says that a claim did not hold here: a result, not a failure of `make run`.
run: build
	build/einkorn reproduce --html $(REPORT) --force || [ $$? -eq 1 ]

build: setup
	@[ -f build/build.ninja ] || cmake --preset $(PRESET) -DPython_EXECUTABLE=$(PYTHON)
	@cmake --build build -j $(JOBS)

test: build check
	EINKORN_BUILD=$(CURDIR)/build PYTHONPATH=$(CURDIR)/build/python $(PYTHON) tools/run_tests.py

bench: build
	build/einkorn bench

# ASan and UBSan over core and parsers, and a short fuzz run of each parser.
sanitize: setup
	@[ -f build-sanitize/build.ninja ] || cmake --preset sanitize
	@cmake --build build-sanitize -j $(JOBS)
	$(PYTHON) tools/run_fuzzers.py build-sanitize

check: setup
	$(PYTHON) tools/check_format.py
	$(PYTHON) tools/check_layering.py

format: setup
	$(PYTHON) tools/check_format.py --fix

install: build
	cmake --install build --prefix $(PREFIX) --component library

clean:
	rm -rf build build-sanitize build-cuda build-wheel report.html

setup:
	@tools/setup.sh

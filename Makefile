# One command a purpose; everything a target needs it installs itself (Debian packages, a locked virtual environment, the plugin).
SHELL := /bin/bash
VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed
PACKAGES := python3-venv python3-bpfcc libbpf1 linux-libc-dev bpftool iptables nftables iproute2 gcc libc6-dev \
	containernetworking-plugins iputils-ping conntrack
# Labs mostly wait: five at a time fill two cores. The tests of one file share a lab and stay together.
BESIDE := -n 5 --dist loadfile
# What runs where there is no Python, or must not cost what Python costs: the plugin, the health probe, the first process.
PROGRAMS := cni/aws-cni cni/grpc-health-probe cni/vpccni-keep
HELM := build/helm/helm
CHAIN_PLUGINS := ipam/dhcp ipam/host-local ipam/static $(addprefix main/,bridge dummy host-device ipvlan loopback macvlan ptp tap vlan) \
	$(addprefix meta/,bandwidth firewall portmap sbr tuning vrf)
STATIC := gcc -std=c11 -Wall -Wextra -Werror -Os -static -s
CODE := components shared cni lab bench charts images src tests

.PHONY: setup demo test test-full test-long test-again check bench fleet chart kube-apiserver images images-inputs spec-coverage clean

setup: $(STAMP) $(PROGRAMS)

$(STAMP): requirements.lock pyproject.toml
	@missing=$$(for p in $(PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
	if [ -n "$$missing" ]; then apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; fi
	test -x $(PYTHON) || /usr/bin/python3 -m venv $(VENV)
	$(PYTHON) -m pip install -q --disable-pip-version-check uv
	$(VENV)/bin/uv pip install -q --python $(PYTHON) --require-hashes -r requirements.lock
	$(VENV)/bin/uv pip install -q --python $(PYTHON) --no-deps --no-build-isolation -e .
	touch $(STAMP)

cni/aws-cni: cni/aws-cni.c cni/frame.h
	$(STATIC) -o $@ $<

cni/grpc-health-probe: cni/probe.c cni/frame.h
	$(STATIC) -o $@ $<

cni/vpccni-keep: cni/keep.c
	$(STATIC) -o $@ $<

demo: setup
	$(PYTHON) -m vpccni.lab.demo

check: $(STAMP)
	$(VENV)/bin/ruff format --check $(CODE)
	$(VENV)/bin/ruff check $(CODE)
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	@if command -v node >/dev/null; then $(VENV)/bin/pyright; else echo 'pyright needs Node.js: left out'; fi

test: setup check
	$(PYTHON) -m pytest -q $(BESIDE) -m "not full"

test-full: test test-long

# What needs Go or minutes: every kill point, deadlines, cnitool, the real kube-apiserver.
test-long: setup
	$(PYTHON) -m pytest -q $(BESIDE) -m full -o timeout=1500

# What failed in the last run, one after the other: tells what a busy machine did from what is broken.
test-again: setup
	$(PYTHON) -m pytest -v --last-failed --last-failed-no-failures none -o timeout=1500

bench: setup
	$(PYTHON) -m vpccni.bench

fleet: setup
	$(PYTHON) -m vpccni.bench.fleet

# The manifests that are kept rendered: after every change of the chart.
chart: $(STAMP) $(HELM)
	$(HELM) lint --strict charts/aws-vpc-cni charts/cni-metrics-helper charts/vpccni-policy-controller
	$(PYTHON) charts/render.py $(HELM)

$(HELM):
	GOBIN=$(CURDIR)/$(@D) GOFLAGS=-mod=mod CGO_ENABLED=0 go install helm.sh/helm/v3/cmd/helm@v3.19.5

# A real API server and etcd for tests/contract, kept in the user's cache for every checkout: some 7 minutes once, with Go.
kube-apiserver: $(STAMP)
	PYTHONPATH=tests $(PYTHON) -m contract.programs

# Every image (or TARGETS), without a registry; what they take from outside the build stage is made before.
images: images-inputs
	@for program in buildah mmdebstrap; do command -v $$program >/dev/null || missing="$$missing $$program"; done; \
	if [ -n "$$missing" ]; then apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; fi
	$(PYTHON) images/build.py $(TARGETS)

images-inputs: $(STAMP) build/plugins/portmap
	$(PYTHON) images/policy_programs.py build/policy/pod.json

build/plugins/portmap:
	GOBIN=$(CURDIR)/build/plugins GOFLAGS=-mod=mod CGO_ENABLED=0 go install -trimpath -ldflags='-s -w' \
		$(addprefix github.com/containernetworking/plugins/plugins/,$(addsuffix @v1.7.1,$(CHAIN_PLUGINS)))
	cp "$$(go env GOMODCACHE)/github.com/containernetworking/plugins@v1.7.1/LICENSE" build/plugins/LICENSE

spec-coverage: $(STAMP)
	$(PYTHON) -m pytest -q --collect-only --spec-coverage

clean:
	rm -rf $(VENV) build dist $(PROGRAMS)

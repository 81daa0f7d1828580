# The commands of the workshop. Public CI and .ci/run call these and no others.
#
#   make            build, lint and test
#   make build      all packages, and bin/muster
#   make bin/etcd bin/consul   real servers, to try things with
#   make release    all that is published of a version, into dist/release; VERSION=v0.1.0 if no tag says it,
#                   TARGET=linux/amd64 for one system alone
#   make image      the images muster and muster-etcd, of static programs and nothing else
#   make test       all tests with the race detector, over real servers; RUN=Name for some, PKG=./dir for one
#   make faults     every fault of the catalogue on every provider (docs/reliability.md), as root;
#                   CASE=name and PROVIDER=etcd for some, SEED=7 for other choices, COUNT=100 to repeat them,
#                   KEEP=/tmp/kept to keep what was recorded even if they pass
#   make faults-short   the short catalogue and the broken variants, which make test runs too
#   make soak       random faults for DURATION=20m, with SEED=1 and PROVIDER=static|etcd|consul
#   make soak-jobs  the same with faults of the master alone, which bound how late jobs are
#   make starts     STARTS=100 times five nodes at once, with a step that is to run once
#   make lint       formatting, go.mod, vet, staticcheck
#   make cross      that it compiles for every system we support, tests included, by its types
#   make cross-build   that the command links for other systems, and vet of what is theirs
#   make bench      the benchmarks; BENCH=Name for some, PKG=./dir for one
#   make fuzz       every fuzz target in turn for FUZZTIME; FUZZ=Name for some, PKG=./dir for one
#   make pictures   the pictures of the documentation, which wants Chromium
#   make fmt        formats the sources

GO      ?= go
PKG     ?= ./...
RUN     ?= .
BENCH   ?= .
# Each iteration of a benchmark of faults is one fault; the fast ones take no longer
# with so few, and BENCHTIME=1s measures them better.
BENCHTIME ?= 20x
TIMEOUT ?= 30m
# How many tests of a package run at a time: most of them wait for TTLs and other clocks, not
# for a processor. The fault catalogue has a bound of its own. With the race detector four clusters
# of each of two packages are as many as two processors bear.
PARALLEL ?= 8
CLUSTERS ?= 4
# How many packages are tested at a time. With more than there are processors, clusters under the
# race detector starve each other.
PACKAGES ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
# What gives way to anything else that wants a processor.
LATER    := nice -n 10
FUZZ     ?= .
FUZZTIME ?= 30s
# What is attacked, and how: see internal/testing/faults.
CASE     ?=
PROVIDER ?=
SEED     ?= 1
DURATION ?= 20m
COUNT    ?= 1
FAULTS   := MUSTER_FAULTS=1 CASE='$(CASE)' PROVIDER='$(PROVIDER)' SEED='$(SEED)' $(GO) test -v -count=$(COUNT) -parallel $(PARALLEL) -timeout 24h
# All commands build alike, so that they share what is compiled: without the paths of the checkout,
# and without cgo but for the race detector, which wants it.
export GOFLAGS += -trimpath
export CGO_ENABLED ?= 0
# The detector waits a second at the end of each process for reports of other threads, and tests start
# hundreds. What go test would vet, once more for the detector, make lint vets in full.
RACE    := CGO_ENABLED=1 GORACE="$(GORACE) atexit_sleep_ms=50" $(GO) test -race -vet=off
TARGETS := linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64
LINKED  := darwin/arm64 windows/amd64
# Modules beside the main one whose go.mod is checked. Not that of tools/consul: to
# tidy it takes hundreds of modules that are needed for nothing else, some of whose
# versions the checksum database has never seen (GONOSUMDB='*' for the first time).
NESTED  := examples/sqlledger tools/browser tools/etcd tools/lint tools/prometheus tools/release

.PHONY: all build test faults faults-short soak soak-jobs starts lint format tidy vet staticcheck cross cross-build bench fuzz fmt clean

all: build lint test

build: bin/muster
	$(GO) build ./...

# Go's own cache knows best whether there is anything to build.
.PHONY: bin/muster bin/etcd bin/consul
bin/muster:
	$(GO) build -o $@ ./cmd/muster

# Real servers, to try things with. The tests build their own.
bin/etcd:
	$(GO) build -C tools/etcd -o ../../$@ go.etcd.io/etcd/server/v3

bin/consul:
	$(GO) build -C tools/consul -o ../../$@ github.com/hashicorp/consul

# Nothing is pulled: the image of muster is made as make release makes it, and what the one of etcd
# holds is built here. IMAGE names that of muster; ARCH is the engine's own unless it is said.
IMAGE  ?= muster
DOCKER ?= docker
ARCH   ?= $(shell $(DOCKER) version --format '{{.Server.Arch}}' 2>/dev/null || $(GO) env GOARCH)

.PHONY: image dist/image
image: dist/image
	$(DOCKER) load -q -i dist/image/muster.tar
	$(DOCKER) build -q -t muster-etcd dist/image/etcd
	@$(DOCKER) images --format '{{.Repository}}:{{.Tag}} {{.Size}}' $(IMAGE)

# What the engine gets, for other engines: an OCI archive, and what that of etcd is built from.
dist/image:
	rm -rf $@
	mkdir -p $@/etcd/state
	GOOS=linux GOARCH=$(ARCH) $(GO) build -ldflags '-s -w' -o $@/muster ./cmd/muster
	$(GO) run -C tools/release ./mkimage -program ../../$@/muster -arch $(ARCH) -name $(IMAGE) -o ../../$@/muster.tar
	GOOS=linux GOARCH=$(ARCH) $(GO) build -C tools/etcd -ldflags '-s -w' -o ../../$@/etcd/etcd go.etcd.io/etcd/server/v3
	cp deploy/etcd.Dockerfile $@/etcd/Dockerfile

# Go, git and the module proxy are all that it needs. The same commit and version of Go give the
# same bytes.
VERSION ?=
TARGET  ?=
.PHONY: release
release:
	$(GO) run -C tools/release . -version '$(VERSION)' -target '$(TARGET)'

# The simulations have one goroutine, in which there are no races, and take ten to twenty
# times as long with the detector: they run in full without it. What tools/browser tests is the
# command, which it builds: that is nothing that the cache of go test knows of.
SIMULATED := ./discovery/driver/casauthority ./internal/supervise ./node/call ./node/internal/authorities ./node/internal/claim ./node/mastership
SIMULATIONS = $(filter $(if $(filter ./...,$(PKG)),$(SIMULATED),$(PKG)),$(SIMULATED))

# What works and has no clock runs beside the catalogue of faults, which waits, has bounds on
# time, and goes first. All other packages follow.
BESIDE := $(if $(filter ./...,$(PKG)),test-catalogue test-simulations test-release test-sqlledger test-browser,$(if $(SIMULATIONS),test-simulations))

# One run shows all that fails: what comes after a failure runs all the same, unless the servers
# cannot be built.
.PHONY: test-beside test-race test-catalogue test-simulations test-release test-sqlledger test-browser
test:
ifeq ($(PKG),./...)
	$(GO) test -count=1 -timeout $(TIMEOUT) -run TestProgramsAreBuilt ./internal/testing/testserver
endif
	@$(MAKE) --no-print-directory -k -j1 $(if $(BESIDE),test-beside) test-race

test-beside:
	@$(MAKE) --no-print-directory -k -j3 $(BESIDE)

test-race:
	$(RACE) -timeout $(TIMEOUT) -p $(PACKAGES) -parallel $(CLUSTERS) -run '$(RUN)' $(PKG)

test-catalogue:
	MUSTER_FAULTS=1 $(RACE) -timeout $(TIMEOUT) -parallel $(PARALLEL) -run '$(RUN)' ./internal/testing/faults

test-simulations:
	$(LATER) $(GO) test -timeout $(TIMEOUT) -run '$(if $(filter .,$(RUN)),Model|CarelessVariants,$(RUN))' $(SIMULATIONS)

test-release:
	$(LATER) $(GO) test -C tools/release -timeout $(TIMEOUT) -run '$(RUN)' ./...

test-sqlledger:
	$(LATER) $(GO) test -C examples/sqlledger -timeout $(TIMEOUT) -run '$(RUN)' ./...

test-browser:
	$(LATER) $(GO) test -C tools/browser -count=1 -timeout $(TIMEOUT) -run '$(RUN)' ./...

faults:
	$(FAULTS) -run '$(if $(CASE)$(PROVIDER),TestCatalogue,TestCatalogue|TestBrokenVariants)' ./internal/testing/faults -full
ifeq ($(CASE)$(PROVIDER),)
	$(GO) test -v -count=1 -timeout 2h -run TestNoGrowth ./node -churn 1000
endif

faults-short:
	$(FAULTS) ./internal/testing/checker ./internal/testing/netlab ./internal/testing/faults

soak:
	DURATION='$(DURATION)' $(FAULTS) -run TestSoak ./internal/testing/faults

soak-jobs:
	DURATION='$(DURATION)' $(FAULTS) -run TestSoakOfJobs ./internal/testing/faults

STARTS ?= 100
starts:
	STARTS='$(STARTS)' $(FAULTS) -run TestStartsAtOnce ./internal/testing/faults

.PHONY: pictures
pictures:
	MUSTER_REQUIRE_BROWSER=1 $(GO) test -C tools/browser -count=1 -timeout $(TIMEOUT) . -update

lint: format tidy vet staticcheck

# gofmt prints the files that it would change; there must be none.
format:
	@files=$$(gofmt -l .); if [ -n "$$files" ]; then echo "not formatted (make fmt):"; echo "$$files"; exit 1; fi

tidy:
	$(GO) mod tidy -diff
	@for m in $(NESTED); do $(GO) mod -C $$m tidy -diff || exit 1; done

vet:
	$(GO) vet ./...
	$(GO) vet -tags musterdoc ./cmd/muster
	$(GO) vet -C tools/release ./...
	$(GO) vet -C examples/sqlledger ./...
	$(GO) vet -C tools/browser ./...
	$(GO) vet -tags musterfault ./internal/clock ./node/mastership ./node/internal/link ./node/internal/claim ./node/call ./discovery/driver/casauthority ./internal/testing/faults/worker

staticcheck: bin/staticcheck
	bin/staticcheck ./...
	cd tools/release && ../../bin/staticcheck ./...
	cd examples/sqlledger && ../../bin/staticcheck ./...
	cd tools/browser && ../../bin/staticcheck ./...

bin/staticcheck: tools/lint/go.mod tools/lint/go.sum
	$(GO) build -C tools/lint -o ../../$@ honnef.co/go/tools/cmd/staticcheck

# The types of all packages and tests, and of all that they import, are checked for every system.
cross:
	$(GO) run ./internal/testing/typecheck $(TARGETS)

# Compiles and links the command for other systems, and vets what has files for them that lint has
# not seen: minutes for what cross cannot see, which is assembly and linking.
cross-build:
	@packages=$$($(GO) list -f '{{if .IgnoredGoFiles}}{{.ImportPath}}{{end}}' ./...) || exit 1; \
	for t in $(LINKED); do \
		echo "build and vet $$t"; \
		export GOOS=$${t%/*} GOARCH=$${t#*/}; \
		$(GO) build -o /dev/null ./cmd/muster && $(GO) vet $$packages || exit 1; \
	done

bench:
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchtime $(BENCHTIME) -p 1 -timeout 2h $(PKG)

# Go fuzzes one target of one package at a time. A target that fails with "context
# deadline exceeded" and no input has found nothing: https://go.dev/issue/75804.
fuzz:
	@failed=; for p in $$($(GO) list $(PKG)); do \
		for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz' | grep -E '$(FUZZ)'); do \
			echo "fuzz $$p $$f"; \
			$(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s $$p || failed="$$failed $$f"; \
		done; \
	done; \
	if [ -n "$$failed" ]; then echo "failed:$$failed"; exit 1; fi

fmt:
	gofmt -w .

clean:
	rm -rf bin dist

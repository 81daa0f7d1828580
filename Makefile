# The commands of the workshop. Public CI and .ci/run call these and no others.
#
#   make            build, lint and test
#   make build      all packages, and bin/muster
#   make bin/etcd bin/consul   real servers, to try things with
#   make image      the images muster and muster-etcd, of static programs and nothing else
#   make test       all tests with the race detector, over real servers; RUN=Name for some, PKG=./dir for one
#   make faults     every fault of the catalogue on every provider (docs/reliability.md), as root;
#                   CASE=name and PROVIDER=etcd for some, SEED=7 for other choices, COUNT=100 to repeat them,
#                   KEEP=/tmp/kept to keep what was recorded even if they pass
#   make faults-short   the short catalogue and the broken variants, which make test runs too
#   make soak       random faults for DURATION=20m, with SEED=1 and PROVIDER=static|etcd|consul
#   make lint       formatting, go.mod, vet, staticcheck
#   make cross      that it compiles for every system we support, tests included
#   make bench      the benchmarks; BENCH=Name for some, PKG=./dir for one
#   make fuzz       every fuzz target in turn for FUZZTIME; FUZZ=Name for some, PKG=./dir for one
#   make fmt        formats the sources

GO      ?= go
PKG     ?= ./...
RUN     ?= .
BENCH   ?= .
# Each iteration of a benchmark of faults is one fault; the fast ones take no longer
# with so few, and BENCHTIME=1s measures them better.
BENCHTIME ?= 20x
TIMEOUT ?= 20m
FUZZ     ?= .
FUZZTIME ?= 30s
# What is attacked, and how: see internal/faults.
CASE     ?=
PROVIDER ?=
SEED     ?= 1
DURATION ?= 20m
COUNT    ?= 1
FAULTS   := MUSTER_FAULTS=1 CASE='$(CASE)' PROVIDER='$(PROVIDER)' SEED='$(SEED)' $(GO) test -v -count=$(COUNT) -timeout 24h
TARGETS := linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64
# Modules beside the main one whose go.mod is checked. Not that of tools/consul: to
# tidy it takes hundreds of modules that are needed for nothing else, some of whose
# versions the checksum database has never seen (GONOSUMDB='*' for the first time).
NESTED  := tools/etcd tools/lint

.PHONY: all build test faults faults-short soak lint format tidy vet staticcheck cross bench fuzz fmt clean

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
	CGO_ENABLED=0 $(GO) build -C tools/consul -o ../../$@ github.com/hashicorp/consul

# Nothing is pulled: what an image holds is built here and handed to the engine. IMAGE
# names that of muster; ARCH is the engine's own unless it is said.
IMAGE  ?= muster
DOCKER ?= docker
ARCH   ?= $(shell $(DOCKER) version --format '{{.Server.Arch}}' 2>/dev/null || $(GO) env GOARCH)

.PHONY: image dist/image
image: dist/image
	$(DOCKER) build -q -t $(IMAGE) dist/image/muster
	$(DOCKER) build -q -t muster-etcd dist/image/etcd
	@$(DOCKER) images --format '{{.Repository}}:{{.Tag}} {{.Size}}' $(IMAGE)

# What the images are built from, for whoever builds them in another way.
dist/image:
	mkdir -p $@/muster/state $@/etcd/state
	CGO_ENABLED=0 GOOS=linux GOARCH=$(ARCH) $(GO) build -trimpath -ldflags '-s -w' -o $@/muster/muster ./cmd/muster
	CGO_ENABLED=0 GOOS=linux GOARCH=$(ARCH) $(GO) build -C tools/etcd -ldflags '-s -w' -o ../../$@/etcd/etcd go.etcd.io/etcd/server/v3
	cp deploy/Dockerfile $@/muster/Dockerfile
	cp deploy/etcd.Dockerfile $@/etcd/Dockerfile

test:
	$(GO) test -race -timeout $(TIMEOUT) -run '$(RUN)' $(PKG)
ifeq ($(PKG),./...)
	MUSTER_FAULTS=1 $(GO) test -race -timeout $(TIMEOUT) -run '$(RUN)' ./internal/faults
endif

faults:
	$(FAULTS) -run '$(if $(CASE)$(PROVIDER),TestCatalogue,TestCatalogue|TestBrokenVariants)' ./internal/faults -full
ifeq ($(CASE)$(PROVIDER),)
	$(GO) test -v -count=1 -timeout 2h -run TestNoGrowth ./node -churn 1000
endif

faults-short:
	$(FAULTS) ./internal/checker ./internal/netlab ./internal/faults

soak:
	DURATION='$(DURATION)' $(FAULTS) -run TestSoak ./internal/faults

lint: format tidy vet staticcheck

# gofmt prints the files that it would change; there must be none.
format:
	@files=$$(gofmt -l .); if [ -n "$$files" ]; then echo "not formatted (make fmt):"; echo "$$files"; exit 1; fi

tidy:
	$(GO) mod tidy -diff
	@for m in $(NESTED); do $(GO) mod -C $$m tidy -diff || exit 1; done

vet:
	$(GO) vet ./...
	$(GO) vet -tags musterfault ./internal/clock ./node/mastership ./node/link ./internal/faults/worker

staticcheck: bin/staticcheck
	bin/staticcheck ./...

bin/staticcheck: tools/lint/go.mod tools/lint/go.sum
	$(GO) build -C tools/lint -o ../../$@ honnef.co/go/tools/cmd/staticcheck

# vet also compiles the tests; once for each system will do.
cross:
	@for t in $(TARGETS); do \
		echo "build $$t"; \
		CGO_ENABLED=0 GOOS=$${t%/*} GOARCH=$${t#*/} $(GO) build ./... || exit 1; \
	done
	@for os in darwin windows; do \
		echo "vet $$os"; \
		CGO_ENABLED=0 GOOS=$$os GOARCH=amd64 $(GO) vet ./... || exit 1; \
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

# Everything a contributor types. `make help` lists the targets.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Everything is named by a path relative to the repository's own folder, whose name may hold a blank: make splits its lists at
# blanks, so a target or a variable with an absolute path would be two. test/prereq refuses the names that nothing can handle.
ifeq ($(filter Makefile ./Makefile,$(firstword $(MAKEFILE_LIST))),)
$(error run make in the folder of the repository: make -C FOLDER)
endif
refused := $(shell test/prereq folder 2>&1)
ifneq ($(refused),)
$(error $(refused))
endif
ifeq ($(origin BIN),command line)
$(error BIN cannot be given: it is always bin)
endif
override BIN := bin
KUBE         := $(BIN)/kube
LINT         := $(BIN)/tools/golangci-lint
SBOM         := $(BIN)/tools/cyclonedx-gomod
GOTESTSUM    := $(BIN)/tools/gotestsum
GREMLINS     := $(BIN)/tools/gremlins
# The same for programs that run in another folder. Quoted, as every use of CURDIR and GO in a recipe: their text may hold a blank.
HERE         := "$(CURDIR)"

# sudo resets PATH; the second name is where Go's own installer puts it.
GO        ?= $(or $(shell command -v go),/usr/local/go/bin/go)
go        := "$(GO)"
TESTFLAGS ?=
FUZZTIME  ?= 10s
FUZZSKIP  ?=

# The output of `version`. The tag of a given IMAGE is the version, unless VERSION is given too. safe.directory: git
# refuses to read a tree that belongs to somebody else, as under sudo, and would leave the binaries without their commit.
git        = git -c safe.directory='*'
IMAGE_TAG := $(word 2,$(subst :, ,$(lastword $(subst /, ,$(IMAGE)))))
DESCRIBED := $(shell $(git) describe --tags --always --dirty 2>/dev/null)
VERSION   ?= $(or $(IMAGE_TAG),$(DESCRIBED),dev)
COMMIT    ?= $(shell $(git) rev-parse HEAD 2>/dev/null)$(if $(filter %-dirty,$(DESCRIBED)), (modified))
VERSION   := $(VERSION)
COMMIT    := $(COMMIT)
ifneq ($(words $(VERSION))$(findstring ',$(VERSION)$(COMMIT)),1)
$(error VERSION "$(VERSION)": want one word)
endif
ifneq ($(findstring @,$(IMAGE)),)
$(error IMAGE "$(IMAGE)": only a registry gives a digest; name a tag)
endif

# -buildvcs=false: git refuses that tree for the go command too, and the build would fail.
gobuild = $(go) $(1) build -buildvcs=false
# -s -w: no symbol table and no DWARF, a third of the size; a panic's trace needs neither.
LDFLAGS := -s -w -X main.version=$(VERSION) -X "main.commit=$(COMMIT)"
# grpcnotrace: grpc leaves golang.org/x/net/trace out. Its templates call methods by name, so that the linker had to keep every
# exported method of the daemon: 20 MB.
TAGS    := -tags grpcnotrace

# `sudo make` must not leave files that the user cannot replace.
GIVEBACK = [ -z "$${SUDO_UID:-}" ] || chown -hR "$$SUDO_UID:$$SUDO_GID" $(BIN)

# Programs run with their own settings: a person's settings must not change a test's outcome, nor be used by one.
unexport $(filter AWS_% KUBECONFIG NODE_NAME CNI_%,$(.VARIABLES))
export AWS_CONFIG_FILE             := /dev/null
export AWS_SHARED_CREDENTIALS_FILE := /dev/null
# Everything but the race detector's tests is compiled in one way, so that Go's cache has each of the many dependencies once.
export CGO_ENABLED := 0
export GOFLAGS     := $(strip $(filter-out -trimpath,$(or $(GOFLAGS),$(shell $(go) env GOFLAGS 2>/dev/null))) -trimpath)

# AT_ONCE is how many packages are tested at once: more than there are processors, since the longest tests mostly wait.
AT_ONCE = $(shell echo $$(( $$(nproc 2>/dev/null || echo 2) * 3 / 2 )))

# FIRST are the packages whose tests take longest: begun last, they would run alone at the end.
FIRST := ./daemon/internal/reconcile ./plugins/internal/attach ./daemon/internal/addresses ./daemon/internal/controller

# gotestsum prints each package as soon as it ends; go test alone would hold back all packages after a slow one. With -v it
# shows every test. Its own flags come first, then go test's. -vet=off: each lane runs all of go vet before, but race, whose code test has vetted.
tests = $(GOTESTSUM) --format $(if $(filter -v -test.v,$(TESTFLAGS)),standard-verbose,pkgname) --format-hide-empty-pkg --raw-command -- $(go) $(1) test -json -vet=off

##@ Use
.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@ / {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\nTimes: on two processors. The first time, what is needed is downloaded and compiled.\nVariables: FUZZTIME=%s TESTFLAGS="-race -run Name" VERSION=%s\n' '$(FUZZTIME)' '$(VERSION)'

.PHONY: build
build: go-version ## Build static multi-eni, eni-ipam, multi-enid and kubectl-multi_eni into bin/ (10 s; the first time 3 min)
	@[ -e $(BIN)/multi-enid ] || echo 'The first build compiles some 700 packages: a few minutes without output.'
	@mkdir -p $(BIN)
	$(call gobuild) $(TAGS) -ldflags '$(LDFLAGS)' -o $(BIN)/multi-eni ./plugins/multi-eni
	$(call gobuild) $(TAGS) -ldflags '$(LDFLAGS)' -o $(BIN)/eni-ipam ./plugins/eni-ipam
	$(call gobuild) $(TAGS) -ldflags '$(LDFLAGS)' -o $(BIN)/multi-enid ./daemon
	$(call gobuild) $(TAGS) -ldflags '$(LDFLAGS)' -o $(BIN)/kubectl-multi_eni ./daemon/kubectl-multi_eni
	@$(GIVEBACK)

include release.mk

# No builder is needed: containerd, kind, minikube, k3s and docker load this archive.
LOCAL_IMAGE := localhost/multi-eni-cni
LOCAL_PARTS := multi-enid multi-eni eni-ipam local/multi-eni-local
.PHONY: local
local: build ## Build what tries it in a cluster without AWS (docs/local.md): bin/local.tar and bin/local (under a minute)
	@mkdir -p $(BIN)/local
	$(call gobuild) -ldflags '$(LDFLAGS)' -o $(BIN)/local/multi-eni-local ./test/local
	$(go) run -buildvcs=false ./test/imagetar/cmd $(BIN)/local.tar $(LOCAL_IMAGE):local $(addprefix $(BIN)/,$(LOCAL_PARTS))
	@printf '%s\n' 'apiVersion: kustomize.config.k8s.io/v1beta1' 'kind: Kustomization' 'resources: [../../deploy]' \
	  'components: [../../deploy/components/local]' 'images: [{name: multi-eni-cni, newName: $(LOCAL_IMAGE), newTag: local}]' >$(BIN)/local/kustomization.yaml
	@$(GIVEBACK)

.PHONY: demo
demo: prereq-demo build tools ## Show the main job: no root, no cluster, no AWS (10 s; the first time 4 min)
	$(call gobuild) -o $(BIN)/tools/demo ./test/demo
	@$(GIVEBACK)
	@$(BIN)/tools/demo

.PHONY: demo-cluster
demo-cluster: prereq-demo-cluster build tools $(KUBE)/.built ## Show the life of an ENI with a real API server: no root, no AWS (20 s; the first time 10 min)
	$(call gobuild,-C test/kube) -o $(HERE)/$(KUBE)/demo-cluster ./democluster
	@$(GIVEBACK)
	@$(KUBE)/demo-cluster

.PHONY: bench bench-plugin bench-daemon bench-story
bench: bench-plugin bench-daemon bench-story ## Measure against the reference plugins and a real API server; prints tables, asserts nothing (19 min)
bench-plugin: prereq-bench build tools ## Measure the plugin alone, against the reference plugins (8 min)
	$(go) run -buildvcs=false ./test/bench -rounds $(BENCHROUNDS)
BENCHROUNDS ?= 50
BENCHFLAGS  ?=
bench-daemon: prereq-bench kube-tools ## Measure the daemon alone, against a real API server (9 min)
	$(go) -C test/kube test -tags bench -v -count=1 -timeout 20m -skip '^TestFleet$$' ./bench $(BENCHFLAGS)
.PHONY: bench-fleet
bench-fleet: prereq-bench kube-tools ## Measure the controller with 5,000 Nodes, against a real API server and a stand-in of EC2 (7 min)
	$(go) -C test/kube test -tags bench -v -count=1 -timeout 120m -run '^TestFleet$$' ./bench $(BENCHFLAGS)
# The story of a device needs root, and is part of test-kube too.
bench-story: prereq-bench kube-tools
	[ "$$(id -u)" != 0 ] || $(go) -C test/kube test -v -count=1 -run '^TestStory$$' ./onenode

##@ Work on it
.PHONY: test
test: prereq-test build tools $(GOTESTSUM) ## Run every test that needs no extra machine (5 min; the first time 8 min)
	@echo 'Compiling the tests: at first a few minutes without output. Then each package is told as it ends.'
	$(go) vet ./...
	$(call tests) -p $(AT_ONCE) $(TESTFLAGS) $(FIRST) ./...

# The packages without input and output, and without goroutines: no race is possible. Their tests are long under the detector.
PURE := daemon/internal/backoff daemon/internal/inventory daemon/internal/lifecycle daemon/internal/pcidp daemon/internal/slots \
  pkg/device plugins/internal/lease plugins/internal/netconf
raced = $$($(go) list $(FIRST) ./pkg/... ./plugins/... ./daemon/... | grep -v $(foreach package,$(PURE),-e '/$(package)$$'))

.PHONY: race
race: prereq-race build tools $(GOTESTSUM) ## Run the tests of the product code under the race detector, but of pure packages (6 min; the first time 9 min)
	CGO_ENABLED=1 $(call tests) -race -p $(AT_ONCE) $(TESTFLAGS) $(raced)

# The same flags as for the Kubernetes programs, so that common packages are compiled once. Each package has a control plane
# and namespaces of its own. The two longest are begun first.
.PHONY: test-kube
test-kube: prereq-test-kube kube-tools $(GOTESTSUM) ## Test against a real kube-apiserver and a real kubelet (8 min; the first time 15 min)
	$(go) -C test/kube vet ./...
	$(call tests,-C test/kube) -p $(AT_ONCE) -timeout 40m $(TESTFLAGS) ./onenode ./outages ./...

# Programs on the node of these tests besides Kubernetes and the product. next/ is another version of the product, to upgrade to.
.PHONY: kube-tools
kube-tools: build tools $(KUBE)/.built $(KUBE)/whereabouts/.built
	@if command -v buildah >/dev/null; then $(MAKE) --no-print-directory trial-release; else rm -f $(BIN)/image.tar; fi
	$(call gobuild,-C test/kube) -o $(HERE)/$(KUBE)/pause ./pause
	$(call gobuild,-C test/kube/binaries) -ldflags '-s -w' -o $(HERE)/$(KUBE)/devicemanager ./devicemanager
	$(call gobuild) -o $(KUBE)/sriovdp ./test/deviceplugin/cmd
	$(call gobuild) -o $(KUBE)/metacni ./test/metacni
	@$(MAKE) --no-print-directory local
	$(call gobuild) $(TAGS) -ldflags '-s -w -X main.version=next' -o $(KUBE)/next/ ./plugins/multi-eni
	$(call gobuild) $(TAGS) -ldflags '-s -w -X main.version=next' -o $(KUBE)/next/multi-enid ./daemon

# Each host has namespaces of its own and mostly waits, so all run at once.
.PHONY: test-hostnet
test-hostnet: go-version ## Test beside real network managers: systemd-networkd, NetworkManager, ec2-net-utils (root) (2 min)
	@test/hostnet/prepare check
	@test/hostnet/prepare unpack
	@$(MAKE) --no-print-directory build tools $(GOTESTSUM)
	$(go) vet -tags hostnet ./test/hostnet
	$(subst pkgname,testname,$(call tests)) -tags hostnet -count=1 -timeout 15m -parallel 14 $(TESTFLAGS) ./test/hostnet
	@$(GIVEBACK)

.PHONY: test-hardware
test-hardware: hardware-tools $(GOTESTSUM) ## Test on a machine with real PCI NICs, SR-IOV and vfio-pci (QEMU) (5 min)
	$(go) -C test/hardware vet ./...
	@GO=$(go) GOTESTSUM=$(GOTESTSUM) test/hardware/run $(TESTFLAGS)

.PHONY: bench-hardware
bench-hardware: hardware-tools ## Measure plugin and daemon on real PCI devices, against host-device (10 min)
	$(go) -C test/hardware test -count=1 -v -timeout 40m ./bench -rounds 50

# The parts of a machine besides the tests.
.PHONY: hardware-tools
hardware-tools: prereq-hardware build tools
	test/hardware/prepare kernel
	@mkdir -p $(BIN)/hardware
	$(call gobuild,-C test/hardware) -o $(HERE)/$(BIN)/hardware/sriov ./sriov
	@$(GIVEBACK)

.PHONY: lint
lint: $(LINT) ## Run golangci-lint, and prove that each of our own rules fires (2 min)
	$(LINT) run ./...
	cd test/kube && ../../$(LINT) run --config ../../.golangci.yml ./...
	cd test/hardware && ../../$(LINT) run --config ../../.golangci.yml ./...
	cd test/tools && ../../$(LINT) run --config ../../.golangci.yml ./...
	GOLANGCI_LINT=$(HERE)/$(LINT) $(go) test -tags lint -run '^TestLintFixtures$$' ./test/arch

.PHONY: fuzz
fuzz: go-version ## Run every fuzz target for FUZZTIME each (30 times FUZZTIME, and 1 min; the first time 6 min)
	@GO=$(go) test/fuzz '$(FUZZTIME)' '$(FUZZSKIP)'

SEQUENCES ?= 10000
.PHONY: sequences
sequences: go-version ## Let SEQUENCES generated stories happen to a node, its neighbours, its cluster and its ENIs; the seeds are printed (12 min)
	$(go) test -count=1 -timeout 30m -v -run '^TestSequences$$' ./daemon/internal/kube/nodeeni -sequences $(SEQUENCES) | grep -v '^=== '
	$(go) test -count=1 -timeout 30m -v -run '^TestSequences$$' ./daemon/internal/lifecycle -sequences $(SEQUENCES) | grep -v '^=== '
	$(go) test -count=1 -timeout 30m -v -run '^TestNeighbours$$' ./daemon/internal/kube -neighbours $(SEQUENCES) | grep -v '^=== '
	$(go) test -count=1 -timeout 30m -v -run '^TestModel$$' ./daemon/internal/reconcile -sequences $$(( $(SEQUENCES) / 50 )) | grep -v -e '^=== ' -e '--- PASS: TestModel/'
	$(go) test -count=1 -timeout 60m -v -run '^TestOffer$$' ./daemon/internal/reconcile -seed 1 -offers $$(( $(SEQUENCES) / 10 )) | grep -v -e '^=== ' -e '--- PASS: TestOffer/'

# One at a time: mutate shows by which package a change survives.
MUTATED := $(addprefix ./,$(PURE) daemon/internal/manifest)
.PHONY: mutate
mutate: go-version $(GREMLINS) ## Change the pure packages, an operator at a time: their tests must notice 95 % of the changes (20 min)
	$(go) run -buildvcs=false ./test/mutate -gremlins $(HERE)/$(GREMLINS) -go $(go) $(MUTATED)

.PHONY: verify
verify: format-check tidy-check generate-check arch monitoring lint ## Check all that needs no kernel: format, modules, generated files, rules, alerts, lint (1 min; the first time 4 min)

.PHONY: generate
generate: go-version ## Write the generated files again (15 s)
	$(go) generate ./...

.PHONY: tools
tools: $(BIN)/.tools $(BIN)/tools/ec2-metadata-mock ## Build the pinned cnitool, reference CNI plugins and AWS' metadata mock into bin/ (15 s)

.PHONY: clean
clean: ## Remove what the build made
	rm -rf bin .cache coverage*

# One line each for a machine that lacks something, before any other output.
prereq-%: go-version
	@test/prereq check 'sudo make $*' $(if $(findstring race,$* $(TESTFLAGS)),gcc) $(if $(filter image,$*),buildah) $(if $(filter bench,$*),strace)
.PHONY: prereq-hardware
prereq-hardware: go-version
	@test/hardware/prepare check
.PHONY: go-version
go-version:
	@test/prereq go $(go)

# test/tools/go.mod pins every program. Its `tool` block is the list; `go list tool` would download the modules of all of them.
PINNED := test/tools/go.mod test/tools/go.sum
pinned  = $$(sed -nE 's,^\t($(1))$$,\1,p' test/tools/go.mod)
$(BIN)/.tools: $(PINNED)
	@mkdir -p $(BIN)/cni $(BIN)/tools
	$(call gobuild,-C test/tools) -o $(HERE)/$(BIN)/cni/ $(call pinned,.*/plugins/plugins/.*)
	$(call gobuild,-C test/tools) -o $(HERE)/$(BIN)/tools/ $(call pinned,.*/cnitool)
	@touch $@
	@$(GIVEBACK)

$(BIN)/tools/ec2-metadata-mock $(GOTESTSUM) $(GREMLINS) $(SBOM) $(BIN)/tools/kustomize: $(PINNED)
	@mkdir -p $(@D)
	$(call gobuild,-C test/tools) -o $(HERE)/$@ $(call pinned,.*/$(@F)/?v?[0-9]*)
	@touch $@
	@$(GIVEBACK)

# Its main package is called cmd; its manifests lie beside the sources.
WHEREABOUTS := github.com/k8snetworkplumbingwg/whereabouts
$(KUBE)/whereabouts/.built: $(PINNED)
	@mkdir -p $(@D)/crds
	$(call gobuild,-C test/tools) -o $(HERE)/$(@D)/whereabouts $(WHEREABOUTS)/cmd
	dir=$$($(go) -C test/tools list -m -f '{{.Dir}}' $(WHEREABOUTS)); cp "$$dir"/doc/crds/*.yaml $(@D)/crds/
	@chmod u+w $(@D)/crds/* && touch $@
	@$(GIVEBACK)

# The programs are the `tool` block of test/kube/binaries/go.mod: Kubernetes, etcd, whose main package is called server, and Helm. One command
# compiles common packages once, and links side by side. They tell the version in that file, as a client expects, and have no symbol table: it
# would double them. Without its two flags Helm takes itself for a client of Kubernetes 1.20.
CHARTUTIL := helm.sh/helm/v3/pkg/chartutil
$(KUBE)/.built: test/kube/binaries/go.mod test/kube/binaries/go.sum
	@mkdir -p $(KUBE)
	@echo 'Compiling Kubernetes: at first five minutes without output.'
	version=$$($(go) -C test/kube/binaries list -m -f '{{.Version}}' k8s.io/kubernetes); \
	$(call gobuild,-C test/kube/binaries) -o $(HERE)/$(KUBE)/ -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$$version \
	  -X $(CHARTUTIL).k8sVersionMajor=1 -X $(CHARTUTIL).k8sVersionMinor=$$(echo "$$version" | cut -d. -f2)" tool
	@mv $(KUBE)/server $(KUBE)/etcd
	@touch $@
	@$(GIVEBACK)

$(LINT): test/tools/lint/go.mod test/tools/lint/go.sum
	@mkdir -p $(@D)
	$(call gobuild,-C test/tools/lint) -o $(HERE)/$(@D)/ tool
	@touch $@

.PHONY: format-check tidy-check generate-check arch monitoring
format-check:
	@out=$$(find . -name '*.go' -not -path './bin/*' -not -path './.cache/*' -exec gofmt -l {} +); \
	  [ -z "$$out" ] || { printf 'not formatted, run gofmt -w on:\n%s\n' "$$out" >&2; exit 1; }
tidy-check:
	$(go) mod tidy -diff
	$(go) -C test/tools mod tidy -diff
	$(go) -C test/kube mod tidy -diff
	$(go) -C test/hardware mod tidy -diff
generate-check:
	@GO=$(go) test/generated
arch:
	$(go) vet ./...
	$(go) test ./test/arch
monitoring:
	$(go) -C test/tools test ./monitoring

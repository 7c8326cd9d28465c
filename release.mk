# The image, the chart's package, and all else that a release has. The same commit gives the same bytes: archives have its time.

##@ Ship it
DIST    := $(BIN)/dist
RELEASE := $(BIN)/tools/release
SOURCE_DATE_EPOCH ?= $(or $(shell $(git) log -1 --format=%ct 2>/dev/null),0)
export SOURCE_DATE_EPOCH

PLATFORMS         ?= linux/amd64 linux/arm64
export PLATFORMS
KUBECTL_PLATFORMS ?= linux/amd64 linux/arm64 darwin/amd64 darwin/arm64
IMAGE             ?= localhost/multi-eni-cni:$(VERSION)
# Where a release's image is pushed to.
REPOSITORY        ?= ghcr.io/multi-eni/multi-eni-cni

# The Dockerfile as it is, except that binaries from here take the place of its first stage: no base image, no network. The store is
# its own: the user's is not touched, and no overlay file system is needed.
BUILDAH     = buildah --storage-driver vfs --root $(HERE)/$(BIN)/image/storage --runroot $(HERE)/$(BIN)/image/run
IMAGE_FLAGS = --isolation chroot --timestamp $(SOURCE_DATE_EPOCH) --build-arg VERSION=$(VERSION)
.PHONY: image
image: prereq-image dist $(SBOM) ## Build IMAGE for PLATFORMS by buildah: bin/image.tar (OCI archive) and bin/sbom (1 min)
	@rm -rf $(BIN)/image $(BIN)/image.tar $(BIN)/sbom $(TRIED) && mkdir -p $(BIN)/image $(BIN)/sbom
	for p in $(PLATFORMS); do \
	  $(BUILDAH) build -q $(IMAGE_FLAGS) --platform "$$p" --build-arg "TARGETARCH=$${p#*/}" --build-context build=$(HERE)/$(DIST)/"$$p" --manifest $(IMAGE) .; done
	for p in multi-eni eni-ipam multi-enid; do $(SBOM) bin -json -std -noserial -notimestamp -version '$(VERSION)' -output "$(BIN)/sbom/$$p.cdx.json" \
	  $(DIST)/$(firstword $(PLATFORMS))/out/"$$p"; done
	$(BUILDAH) manifest push -q --all $(IMAGE) oci-archive:$(HERE)/$(BIN)/image.tar:$(IMAGE)
	$(RELEASE) repack -image $(BIN)/image.tar
	@chmod -R u+w $(BIN)/image && rm -rf $(BIN)/image
	@$(GIVEBACK)

# The files of the image, for each of PLATFORMS.
.PHONY: dist
dist: licenses
	@rm -rf $(DIST)
	for p in $(PLATFORMS); do out=$(DIST)/$$p/out; mkdir -p "$$out" && cp -r $(BIN)/licenses "$$out"; \
	  for program in multi-eni=./plugins/multi-eni eni-ipam=./plugins/eni-ipam multi-enid=./daemon; do \
	    GOOS=$${p%/*} GOARCH=$${p#*/} $(call gobuild) $(TAGS) -ldflags '$(LDFLAGS)' -o "$$out/$${program%=*}" "$${program#*=}"; done; done

.PHONY: licenses
licenses: $(RELEASE)
	@rm -rf $(BIN)/licenses
	GO=$(go) $(RELEASE) notices -o $(BIN)/licenses $(lastword $(TAGS))
	@$(GIVEBACK)

.PHONY: chart
chart: $(RELEASE) ## Make the chart's package of VERSION, as helm push takes it: bin/multi-eni-cni-VERSION.tgz (1 s)
	$(RELEASE) chart -version '$(VERSION)' -o $(BIN)
	@$(GIVEBACK)

# UNRELEASED=1 is for a trial: any VERSION, any tree, and the changelog's section Unreleased.
TRIAL = $(if $(UNRELEASED),-unreleased)
.PHONY: release
release: $(RELEASE) $(BIN)/tools/kustomize ## Make all files of release VERSION, such as v1.2.3: bin/release, see RELEASING.md (1 min)
	$(RELEASE) check $(TRIAL) -version '$(VERSION)'
	@$(MAKE) --no-print-directory image VERSION='$(VERSION)' IMAGE='$(REPOSITORY):$(VERSION)'
	for p in $(KUBECTL_PLATFORMS); do \
	  GOOS=$${p%/*} GOARCH=$${p#*/} $(call gobuild) $(TAGS) -ldflags '$(LDFLAGS)' -o $(DIST)/"$$p"/kubectl-multi_eni ./daemon/kubectl-multi_eni; done
	$(SBOM) bin -json -std -noserial -notimestamp -version '$(VERSION)' -output $(BIN)/sbom/kubectl-multi_eni.cdx.json \
	  $(DIST)/$(firstword $(KUBECTL_PLATFORMS))/kubectl-multi_eni
	@rm -rf $(BIN)/manifests && mkdir -p $(BIN)/manifests
	digest=$$($(RELEASE) digest); printf 'resources: [../../deploy]\nimages: [{name: multi-eni-cni, newName: %s, digest: "%s"}]\n' '$(REPOSITORY)' "$$digest" >$(BIN)/manifests/kustomization.yaml
	$(BIN)/tools/kustomize build $(BIN)/manifests >$(BIN)/manifests/install.yaml
	$(RELEASE) assemble $(TRIAL) -version '$(VERSION)' -repository '$(REPOSITORY)' -manifests $(BIN)/manifests/install.yaml -o $(BIN)/release
	@$(GIVEBACK)

# The trial that the one-node lane installs from. The same commit gives the same release for PLATFORMS, so it is made once of each.
TRIED := $(BIN)/trial-release
.PHONY: trial-release
trial-release:
	@[ -z '$(filter %(modified),$(COMMIT))' ] && [ -n '$(COMMIT)' ] && [ "$$(cat $(TRIED) 2>/dev/null)" = '$(COMMIT) $(PLATFORMS)' ] || \
	  { $(MAKE) --no-print-directory release UNRELEASED=1 KUBECTL_PLATFORMS=linux/amd64 && echo '$(COMMIT) $(PLATFORMS)' >$(TRIED); }

.PHONY: $(RELEASE)
$(RELEASE): go-version
	@mkdir -p $(@D)
	$(call gobuild) -o $@ ./test/release

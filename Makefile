# Everything that is built or fetched goes below OUT. Run as root: containers are real here.
OUT    ?= _out
PREFIX ?= /usr/local

override OUT := $(abspath $(OUT))
SPROUT_OUT   := $(OUT)
export OUT SPROUT_OUT

sources := cmd integration seedpool shim snapshotter

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# The shim writes a container's state as runc does, with runc's own code, part of which is C: linked statically, so that it runs wherever the others do.
.PHONY: build
build: ## build sprout's binaries into _out/bin
	@mkdir -p $(OUT)/bin
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o $(OUT)/bin/ ./cmd/containerd-shim-sprout-v2 ./cmd/sprout ./cmd/sproutd
	CGO_ENABLED=1 go build -trimpath -tags netgo,osusergo -ldflags '-s -w -linkmode external -extldflags -static' -o $(OUT)/bin/ ./cmd/sprout-shim

.PHONY: demo
demo: ## show Tomcat started cold, and woken
	@$(MAKE) --no-print-directory -j3 tools images IMAGES=tomcat-demo build
	go run ./integration/demo -out $(OUT)

# Packages are tested two at a time, since much of it is waiting; the tests with a whole containerd have the machine for themselves.
.PHONY: test
test: ## run all tests, against real containerd, runc and CRIU
	@$(MAKE) --no-print-directory -j3 tools images build
	go test -p 2 -count=1 -timeout 20m $$(go list ./... | grep -Ev '/integration(/kube)?$$')
	go test -count=1 -timeout 40m ./integration

# The same test is part of make test, with fewer kills.
.PHONY: crash
crash: ## kill sproutd 200 times at random points; SPROUT_KILLS_SEED=N has the same points again
	SPROUT_KILLS=$${SPROUT_KILLS:-200} go test -count=1 -timeout 10m -run TestRandomKills -v ./seedpool

.PHONY: soak
soak: ## ten clones of each demo app, a thousand requests each, then SPROUT_SOAK=1m of them; 1000 clones in a row: 20 minutes
	@$(MAKE) --no-print-directory -j3 tools images build
	SPROUT_SOAK=$${SPROUT_SOAK:-1m} SPROUT_CYCLES=$${SPROUT_CYCLES:-1000} go test -count=1 -v -timeout 60m \
		-run 'TestEachDemoAppIsCloned|TestTenClones|TestClonesLeaveNothing' ./integration

.PHONY: kube-test
kube-test: ## run pods of a real Kubernetes, which is built first: five minutes
	@$(MAKE) --no-print-directory -j3 tools images build kubernetes
	go test -count=1 -v -timeout 30m ./integration/kube

.PHONY: check
check: dev generate ## run formatters, linters, the import rule; see that generated files are up to date
	@git diff --exit-code -- '*.pb.go' || { echo "check: generated files are not up to date: commit what make generate wrote" >&2; exit 1; }
	@unformatted=$$($(OUT)/bin/gofumpt -l $(wildcard $(sources))) && [ -z "$$unformatted" ] || \
		{ echo "check: run gofumpt -w on" $$unformatted >&2; exit 1; }
	go mod tidy -diff
	go vet ./...
	$(OUT)/bin/staticcheck ./...
	$(OUT)/bin/golangci-lint run
	go test -count=1 ./integration/imports

.PHONY: bench
bench: ## measure starts and memory beside stock runc; SECTION=a,b for some sections only
	@$(MAKE) --no-print-directory -j3 tools images build
	go run ./integration/bench -out $(OUT) -section "$(SECTION)"

.PHONY: generate
generate: dev ## write the Go files that come from .proto files
	go generate ./...

.PHONY: clean
clean: ## remove _out, and whatever a killed test left mounted there
	@findmnt --raw --noheadings --output TARGET | grep '^$(OUT)/' | sort -r | xargs -r umount
	rm -rf --one-file-system $(OUT)

.PHONY: install
install: ## install binaries, reseeding aids, systemd unit and a directory for the configuration
	install -D -t $(DESTDIR)$(PREFIX)/bin $(addprefix $(OUT)/bin/,containerd-shim-sprout-v2 sprout-shim sproutd sprout)
	install -d $(DESTDIR)/etc/sprout $(DESTDIR)/etc/systemd/system
	install -d $(DESTDIR)$(PREFIX)/share/sprout
	cp -r contrib/reseed $(DESTDIR)$(PREFIX)/share/sprout/
	sed 's|/usr/local/bin|$(PREFIX)/bin|' contrib/systemd/sproutd.service > $(DESTDIR)/etc/systemd/system/sproutd.service

# Parts of the above. Debian packages come first and alone: the others need them, and dpkg allows one at a time.
.PHONY: packages tools images dev kubernetes
packages:
	@integration/tools/install.sh packages
tools: packages
	@integration/tools/install.sh criu runc containerd cni
images: packages
	@integration/images/build.sh $(IMAGES)
dev: packages
	@integration/tools/install.sh dev
kubernetes: packages
	@integration/tools/install.sh etcd kubernetes

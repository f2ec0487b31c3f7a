# The commands of this repository; "make help" lists them.

GO        ?= go
BIN       ?= bin
TOOLS     ?= $(CURDIR)/.cache/bin
LINT_VERSION := v2.15.0
SWAG_VERSION := v1.16.6
H2SPEC_VERSION := v2.2.1
CACHE_TESTS_VERSION := 0.4.5

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the commands
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: ## Run everything on this machine (keywarden dev)
	$(GO) run ./cmd/keywarden dev

.PHONY: build
build: ## Build the binaries into bin/
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BIN)/ ./cmd/...

.PHONY: test
test: ## Run the whole suite with the race detector (needs PostgreSQL's programs, or TEST_DATABASE_URL)
	$(GO) test -race -timeout 20m ./...

.PHONY: test-short
test-short: ## Run the suite without the long runs and without the race detector
	$(GO) test -short -timeout 10m ./...

.PHONY: test-fault
test-fault: ## Run the long fault and revocation runs
	KEYWARDEN_TEST_LONG=1 $(GO) test -run 'Fault|Revo|Outage|Kill|Term|Reload|Replica' -count=1 -timeout 60m ./pkg/app/... ./pkg/cli/...

FUZZTIME ?= 30s
.PHONY: fuzz
fuzz: ## Fuzz every parser for FUZZTIME each (default 30s)
	@for pkg in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "$$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
		done; \
	done

$(TOOLS)/h2spec-$(H2SPEC_VERSION):
	GOBIN=$(TOOLS) $(GO) install github.com/summerwind/h2spec/cmd/h2spec@$(H2SPEC_VERSION)+incompatible
	mv $(TOOLS)/h2spec $@

.PHONY: test-h2
test-h2: $(TOOLS)/h2spec-$(H2SPEC_VERSION) ## Run h2spec against our TLS listener, and against a bare net/http server to compare
	KEYWARDEN_H2SPEC=$< $(GO) test -v -run H2Spec -count=1 ./pkg/app

$(TOOLS)/cache-tests-$(CACHE_TESTS_VERSION):
	npm install --prefix $@.new --ignore-scripts --no-save --no-audit --no-fund http-cache-tests@$(CACHE_TESTS_VERSION)
	mv $@.new $@

.PHONY: test-cache
test-cache: $(TOOLS)/cache-tests-$(CACHE_TESTS_VERSION) ## Run the tests for HTTP caches of cache-tests.fyi (needs Node.js and npm)
	KEYWARDEN_CACHE_TESTS=$</node_modules/http-cache-tests $(GO) test -v -run OutsideSuite -count=1 ./pkg/app

.PHONY: test-soak
test-soak: ## Run the long runs of the gateway: reloads, stops, overload and memory under load
	KEYWARDEN_TEST_LONG=1 $(GO) test -v -run 'Soak' -count=1 -timeout 60m ./pkg/cli/...

BENCH_FLAGS ?= -doc docs/benchmarks.md
.PHONY: bench
bench: ## Measure the CPU time of a proxied request beside a bare reverse proxy
	$(GO) run ./pkg/gateway/benchtest $(BENCH_FLAGS)

.PHONY: bench-micro
bench-micro: ## Run the Go benchmarks
	$(GO) test -run '^$$' -bench . -benchmem ./pkg/...

.PHONY: fmt
fmt: ## Format the code
	gofmt -w cmd docs migrations pkg

.PHONY: fmt-check
fmt-check: ## Fail when code is not formatted
	@out=$$(gofmt -l cmd docs migrations pkg); test -z "$$out" || { echo "not formatted:"; echo "$$out"; exit 1; }

.PHONY: vet
vet: ## Run go vet
	$(GO) vet ./...

$(TOOLS)/golangci-lint-$(LINT_VERSION):
	GOBIN=$(TOOLS) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	mv $(TOOLS)/golangci-lint $@

.PHONY: lint
lint: $(TOOLS)/golangci-lint-$(LINT_VERSION) ## Run the linters of .golangci.yml
	$< run ./...

$(TOOLS)/swag-$(SWAG_VERSION):
	GOBIN=$(TOOLS) $(GO) install github.com/swaggo/swag/cmd/swag@$(SWAG_VERSION)
	mv $(TOOLS)/swag $@

.PHONY: generate
generate: $(TOOLS)/swag-$(SWAG_VERSION) ## Write docs/ (OpenAPI) from the handlers, docs/gateway.schema.json from the types, configs/keywarden.yaml from the defaults
	$< init --quiet --generalInfo doc.go --dir pkg/httpapi,pkg/problem,pkg/session,pkg/changes,pkg/spec/diff --output docs --outputTypes go,json,yaml
	gofmt -w docs/docs.go
	$(GO) run ./cmd/keywarden config print --defaults > configs/keywarden.yaml
	$(GO) test ./pkg/spec/schema -run Published -count=1 -args -update >/dev/null

.PHONY: verify
verify: generate ## Fail when generated files are not current
	@git diff --exit-code -- docs/docs.go docs/swagger.json docs/swagger.yaml docs/gateway.schema.json configs/keywarden.yaml || \
		{ echo "generated files are not current: run make generate and commit"; exit 1; }
	@$(GO) mod tidy -diff

.PHONY: clean
clean: ## Remove what was built
	rm -rf $(BIN) .cache

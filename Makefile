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

# What is shipped leaves out MessagePack in Gin and the request browser of gRPC, which nobody
# reaches and which keep the linker from leaving more out.
SHIPPED_TAGS := nomsgpack,grpcnotrace

.PHONY: build
build: ## Build the binaries into bin/
	CGO_ENABLED=0 $(GO) build -trimpath -tags=$(SHIPPED_TAGS) -o $(BIN)/ ./cmd/...

# One package more than there are processors: many wait more than they work.
TEST_PACKAGES ?= $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) + 1 )))

.PHONY: test
test: ## Run the whole suite with the race detector (needs PostgreSQL's programs, or TEST_DATABASE_URL)
	$(GO) test -race -timeout 20m -p $(TEST_PACKAGES) ./...

.PHONY: test-short
test-short: ## Run the suite without the long runs and without the race detector
	$(GO) test -short -timeout 10m ./...

.PHONY: test-fault
test-fault: ## Run the long fault and revocation runs; what they measure goes into docs/reliability.md
	KEYWARDEN_TEST_LONG=1 KEYWARDEN_TEST_REPORT=$(CURDIR)/docs/reliability.md $(GO) test -p 1 -v -run 'Fault|Revo|Outage|Kill|Term|Reload|Replica|Redis|SoakBodies|GivesWay' -count=1 -timeout 120m \
		./pkg/faulttest ./pkg/store/postgres ./pkg/app/... ./pkg/cli/...

FUZZTIME ?= 30s
.PHONY: fuzz
fuzz: ## Fuzz every parser for FUZZTIME each (default 30s)
	@for pkg in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "$$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
		done; \
	done

FUZZ_INPUTS ?= 1000000
.PHONY: fuzz-front
fuzz-front: ## Hold the front's parser against net/http's on FUZZ_INPUTS inputs (default 10^6; FUZZ_SEED repeats a run)
	KEYWARDEN_TEST_INPUTS=$(FUZZ_INPUTS) KEYWARDEN_TEST_SEED=$(FUZZ_SEED) $(GO) test -v -run '^TestFrontAgreesWithNetHTTP$$' -count=1 -timeout 3h ./pkg/httpserver/front

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
	KEYWARDEN_TEST_LONG=1 $(GO) test -v -run 'Soak' -count=1 -timeout 60m ./pkg/cli/... ./pkg/openapi/imports

LOAD_FLAGS ?= -doc docs/benchmarks.md
.PHONY: load
load: ## Offer logins, keys, proxied calls and limits at constant rates; fails beyond 50 ms (p95), 100 ms (p99) or with an error
	$(GO) run ./pkg/loadtest/run $(LOAD_FLAGS)

BENCH_FLAGS ?= -doc docs/benchmarks.md
.PHONY: bench
bench: ## Measure CPU time, allocations and memory of proxied requests beside Gin + ReverseProxy with the same policies
	$(GO) run ./pkg/gateway/benchtest $(BENCH_FLAGS)

BENCH_CHECK_FLAGS ?= -most 0.70 -allocations 18
.PHONY: bench-check
bench-check: ## The short run of it: fail when a proxied request has become dearer than its bounds allow
	$(GO) run ./pkg/gateway/benchtest -check -rounds 12 -window 500ms $(BENCH_CHECK_FLAGS)

.PHONY: bench-micro
bench-micro: ## Run the Go benchmarks
	$(GO) test -run '^$$' -bench . -benchmem ./pkg/...

.PHONY: fmt
fmt: ## Format the code
	gofmt -w charts cmd configs docs migrations pkg

.PHONY: fmt-check
fmt-check: ## Fail when code is not formatted
	@out=$$(gofmt -l charts cmd configs docs migrations pkg); test -z "$$out" || { echo "not formatted:"; echo "$$out"; exit 1; }

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
verify: generate dashboards rules check-shipping chart ## Fail when generated files are not current, or the rules of Prometheus are not good
	@git diff --exit-code -- docs/docs.go docs/swagger.json docs/swagger.yaml docs/gateway.schema.json configs/keywarden.yaml configs/grafana/dashboards || \
		{ echo "generated files are not current: run make generate and commit"; exit 1; }
	@$(GO) mod tidy -diff

# ---- observability ----

# What Debian 12 has. Only the two programs are taken out of the packages: installing
# them would start services.
PROMTOOL_VERSION := 2.42.0
AMTOOL_VERSION := 0.25.0

define from-debian
	@mkdir -p $(TOOLS); dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; chmod 755 "$$dir"; cd "$$dir"; \
	apt-get download -q $(1) >log 2>&1 || { $$(test "$$(id -u)" = 0 || echo sudo) apt-get update -qq && apt-get download -q $(1) >log 2>&1; } || { cat log; exit 1; }; \
	dpkg-deb -x $(1)_*.deb .; \
	"usr/bin/$(2)" --version 2>&1 | grep -q 'version $(subst .,\.,$(3))' || { echo "$(1) of this Debian has another version of $(2) than $(3)"; exit 1; }; \
	mv "usr/bin/$(2)" $@
endef

$(TOOLS)/promtool-$(PROMTOOL_VERSION):
	$(call from-debian,prometheus,promtool,$(PROMTOOL_VERSION))

$(TOOLS)/prometheus-$(PROMTOOL_VERSION):
	$(call from-debian,prometheus,prometheus,$(PROMTOOL_VERSION))

$(TOOLS)/amtool-$(AMTOOL_VERSION):
	$(call from-debian,prometheus-alertmanager,amtool,$(AMTOOL_VERSION))

.PHONY: rules
rules: $(TOOLS)/promtool-$(PROMTOOL_VERSION) $(TOOLS)/amtool-$(AMTOOL_VERSION) ## Check and test the rules of Prometheus and the routes of Alertmanager (needs Debian's apt-get)
	$< check config --lint=all configs/prometheus/prometheus.yml
	$< test rules configs/prometheus/tests/alerts.yml
	$(TOOLS)/amtool-$(AMTOOL_VERSION) check-config configs/alertmanager/alertmanager.yml

.PHONY: dashboards
dashboards: ## Write configs/grafana/dashboards from configs/grafana/boards.go
	$(GO) run ./configs/grafana

.PHONY: test-dashboards
test-dashboards: $(TOOLS)/prometheus-$(PROMTOOL_VERSION) ## Run every query of dashboards and rules by a real Prometheus, over two minutes of traffic
	KEYWARDEN_PROMETHEUS=$< $(GO) test -v -run PrometheusAnswers -count=1 -timeout 15m ./pkg/app

# ---- image ----

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo development)
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
CREATED  ?= $(shell TZ=UTC git log -1 --format=%cd --date=format-local:%Y-%m-%dT%H:%M:%SZ 2>/dev/null || echo 1970-01-01T00:00:00Z)
IMAGE    ?= keywarden
DIST     ?= dist
SECRETS  ?= .secrets
DOTENV   ?= .env
PROFILE  ?= full

# As in the Dockerfile.
DIST_FLAGS := -trimpath -buildvcs=false -tags=$(SHIPPED_TAGS) -ldflags="-s -w -buildid= -X github.com/keywarden/keywarden/pkg/app.linkedVersion=$(VERSION) -X github.com/keywarden/keywarden/pkg/app.linkedCommit=$(REVISION)"

.PHONY: dist
dist: ## Build the program into dist/ as the image has it: static, stripped, the same bytes each time
	CGO_ENABLED=0 $(GO) build $(DIST_FLAGS) -o $(DIST)/ ./cmd/keywarden ./cmd/usersvc ./cmd/productsvc

.PHONY: image
image: ## Build the image IMAGE:VERSION (needs Docker with buildx); dist/image.json has its provenance
	@mkdir -p $(DIST)
	BUILDX_METADATA_PROVENANCE=max SOURCE_DATE_EPOCH=$(shell git log -1 --format=%ct 2>/dev/null || echo 0) docker buildx build --load --target keywarden \
		--build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) --build-arg CREATED=$(CREATED) \
		--metadata-file $(DIST)/image.json --tag $(IMAGE):$(VERSION) .

.PHONY: image-check
image-check: ## Build the program as the image has it, measure it, and run it on a read-only root file system
	KEYWARDEN_TEST_IMAGE=1 $(GO) test -v -run '^TestImage' -count=1 ./pkg/cli

.PHONY: secrets
secrets: ## Write the secrets of docker-compose.yml to .secrets/, and .env, where they are not there yet
	@umask 077; mkdir -p $(SECRETS); chmod 700 $(SECRETS); \
	make_one() { test -e $(SECRETS)/$$1 || { cat > $(SECRETS)/$$1 && chmod 444 $(SECRETS)/$$1 && echo "wrote $(SECRETS)/$$1"; }; }; \
	random() { od -An -N "$$1" -tx1 /dev/urandom | tr -d ' \n'; }; \
	head -c 32 /dev/urandom | base64 | make_one master_key; \
	random 24 | make_one postgres_password; \
	random 16 | make_one grafana_password; \
	echo "requirepass $$(random 24)" | make_one redis_conf; \
	echo "redis://default:$$(sed -n 's/^requirepass //p' $(SECRETS)/redis_conf)@redis:6379/0" | make_one redis_url; \
	test -e $(DOTENV) || { cp .env.example $(DOTENV) && echo "wrote $(DOTENV)"; }

.PHONY: up
up: secrets ## Start docker-compose.yml and wait until all of it is healthy: make up PROFILE=core
	$(if $(filter core,$(PROFILE)),OTEL_EXPORTER_OTLP_ENDPOINT= )VERSION=$(VERSION) REVISION=$(REVISION) docker compose --profile $(PROFILE) up --build --detach --wait

.PHONY: down
down: ## Stop docker-compose.yml; its data stays
	docker compose --profile full down

# ---- pipeline: the stages of the Jenkinsfile ----

GOTESTSUM_VERSION := v1.13.0
GROOVY_VERSION := 2.4.21-8
TRIVY_FLAGS ?= --exit-code 1 --severity HIGH,CRITICAL
ENVIRONMENT ?= dev
RELEASE     ?= keywarden
NAMESPACE   ?= keywarden-$(ENVIRONMENT)
HELM_VALUES ?=
HELM_TIMEOUT ?= 10m
BASE_URL    ?= http://127.0.0.1:8080

$(TOOLS)/gotestsum-$(GOTESTSUM_VERSION):
	GOBIN=$(TOOLS) $(GO) install gotest.tools/gotestsum@$(GOTESTSUM_VERSION)
	mv $(TOOLS)/gotestsum $@

.PHONY: coverage
coverage: $(TOOLS)/gotestsum-$(GOTESTSUM_VERSION) ## Run the suite with coverage: coverage.out, dist/junit.xml, dist/coverage.html
	@mkdir -p $(DIST)
	$< --format pkgname --junitfile $(DIST)/junit.xml -- -timeout 30m -covermode=atomic -coverpkg=./cmd/...,./pkg/... -coverprofile=coverage.out ./...
	$(GO) tool cover -html=coverage.out -o $(DIST)/coverage.html
	@$(GO) tool cover -func=coverage.out | tail -n 1

.PHONY: sonar
sonar: ## Send code and coverage to SonarQube (needs sonar-scanner, SONAR_HOST_URL, SONAR_TOKEN)
	@test -s coverage.out || { echo "coverage.out is missing: run make coverage first"; exit 1; }
	sonar-scanner -Dsonar.projectVersion=$(VERSION)

.PHONY: repo-scan
repo-scan: ## Look for secrets, misconfiguration and vulnerable modules in the repository (needs trivy)
	@mkdir -p $(DIST)
	trivy fs --scanners vuln,secret,misconfig --skip-dirs .cache --skip-dirs dist $(TRIVY_FLAGS) .

.PHONY: image-scan
image-scan: ## Fail when the image has a vulnerability of severity HIGH or CRITICAL (needs trivy)
	trivy image --scanners vuln,secret $(TRIVY_FLAGS) $(IMAGE):$(VERSION)

.PHONY: sbom
sbom: ## Write what the image is made of to dist/sbom.cdx.json and dist/sbom.spdx.json (needs trivy)
	@mkdir -p $(DIST)
	trivy image --format cyclonedx --output $(DIST)/sbom.cdx.json $(IMAGE):$(VERSION)
	trivy image --format spdx-json --output $(DIST)/sbom.spdx.json $(IMAGE):$(VERSION)

.PHONY: image-push
image-push: ## Push the image that was scanned; dist/image-digest has its digest. Signed when cosign and COSIGN_KEY are there
	configs/tools/push.sh $(IMAGE) $(VERSION) $(DIST)

.PHONY: deploy
deploy: ## Deploy by Helm to ENVIRONMENT and wait; Helm takes a failed upgrade back itself
	helm upgrade $(RELEASE) charts/keywarden --install --namespace $(NAMESPACE) --create-namespace \
		--atomic --wait --timeout $(HELM_TIMEOUT) --history-max 10 \
		--set image.repository=$(IMAGE) --set image.digest=$$(cat $(DIST)/image-digest) \
		$(if $(HELM_VALUES),--values "$(HELM_VALUES)")

.PHONY: rollback
rollback: ## Take the last deployment to ENVIRONMENT back
	helm rollback $(RELEASE) --namespace $(NAMESPACE) --wait --timeout $(HELM_TIMEOUT)

.PHONY: smoke
smoke: ## Ask an installation whether it works: make smoke BASE_URL=https://… [VERSION=v1.2.3]
	@BASE_URL="$(BASE_URL)" VERSION="$(if $(filter-out file,$(origin VERSION)),$(VERSION),$(if $(CI),$(VERSION)))" METRICS_URL="$(METRICS_URL)" configs/tools/smoke.sh

# The compiler of Groovy that Jenkins itself has, and what it needs, out of Debian's
# packages: nothing is installed.
$(TOOLS)/groovy-$(GROOVY_VERSION):
	@command -v apt-get >/dev/null || { echo "needs Debian's apt-get, for the compiler of Groovy"; exit 1; }
	rm -rf $@.new && mkdir -p $@.new/deb
	cd $@.new/deb && get="apt-get download -qq groovy=$(GROOVY_VERSION) libantlr-java libasm-java libcommons-cli-java"; \
	$$get 2>/dev/null || { $$(test "$$(id -u)" = 0 || echo sudo) apt-get update -qq && $$get; } && for deb in *.deb; do dpkg -x $$deb tree || exit 1; done
	cp -L $@.new/deb/tree/usr/share/maven-repo/org/codehaus/groovy/groovy/debian/groovy-debian.jar \
		$@.new/deb/tree/usr/share/maven-repo/org/codehaus/groovy/groovy-json/debian/groovy-json-debian.jar \
		$@.new/deb/tree/usr/share/java/antlr.jar $@.new/deb/tree/usr/share/java/asm.jar \
		$@.new/deb/tree/usr/share/java/asm-tree.jar $@.new/deb/tree/usr/share/java/asm-analysis.jar $@.new/deb/tree/usr/share/java/asm-util.jar \
		$@.new/deb/tree/usr/share/java/commons-cli.jar $@.new/
	rm -rf $@.new/deb && mv $@.new $@

.PHONY: check-shipping
check-shipping: $(TOOLS)/groovy-$(GROOVY_VERSION) ## Check Dockerfile, docker-compose.yml and Jenkinsfile by their own parsers (needs Java and Debian's apt-get)
	@command -v java >/dev/null || { echo "needs Java: apt-get install default-jre-headless"; exit 1; }
	cd configs/tools && TOOLS_GROOVY=$(abspath $<) $(GO) test -count=1 ./...

# ---- chart ----

HELM_VERSION := v3.22.0
# As Helm's own build sets them: its version, and the Kubernetes of its client-go.
HELM_PACKAGE := helm.sh/helm/v3
HELM_FLAGS   := -s -w -X $(HELM_PACKAGE)/internal/version.version=$(HELM_VERSION) \
	-X $(HELM_PACKAGE)/pkg/chartutil.k8sVersionMajor=1 -X $(HELM_PACKAGE)/pkg/chartutil.k8sVersionMinor=37 \
	-X $(HELM_PACKAGE)/pkg/lint/rules.k8sVersionMajor=1 -X $(HELM_PACKAGE)/pkg/lint/rules.k8sVersionMinor=37
# The tests of the chart ask this one, where it is there, and the helm of the path otherwise.
export KEYWARDEN_HELM ?= $(TOOLS)/helm-$(HELM_VERSION)

$(TOOLS)/helm-$(HELM_VERSION):
	GOBIN=$(TOOLS) $(GO) install -ldflags="$(HELM_FLAGS)" $(HELM_PACKAGE)/cmd/helm@$(HELM_VERSION)
	mv $(TOOLS)/helm $@

.PHONY: helm
helm: $(TOOLS)/helm-$(HELM_VERSION) ## Build Helm, which the tests of the chart run

.PHONY: chart
chart: $(TOOLS)/helm-$(HELM_VERSION) ## Check the Helm chart: lint, golden files, the schemas of Kubernetes, its references
	KEYWARDEN_HELM=$< $(GO) test ./charts

.PHONY: chart-update
chart-update: $(TOOLS)/helm-$(HELM_VERSION) ## Write what is generated of the chart: golden files, table of values, schema of config, copies of rules and dashboards
	KEYWARDEN_HELM=$< $(GO) test ./charts -count=1 -update

.PHONY: chart-schemas
chart-schemas: $(TOOLS)/helm-$(HELM_VERSION) ## Write charts/testdata/schemas from the Go modules of Kubernetes
	KEYWARDEN_HELM=$< $(GO) test ./charts -count=1 -run Renderings -update-schemas

.PHONY: clean
clean: ## Remove what was built
	rm -rf $(BIN) .cache

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help synth test bench lab calls lab-breaks cost deploy publish upgrade-notes schemas lint fmt vuln

# The tools that are no dependency of the code; see CONTRIBUTING.md, Dependencies.
GOLANGCI_LINT := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOVULNCHECK := go run golang.org/x/vuln/cmd/govulncheck@v1.9.0
# shfmt comes from the module that the tests parse scripts with.
SHFMT = go run mvdan.cc/sh/v3/cmd/shfmt@$$(go list -m -f '{{.Version}}' mvdan.cc/sh/v3)
# The CDK CLI as README.md has it.
CDK := $(shell grep -om1 'npx --yes aws-cdk@[0-9.]*' README.md)

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

synth: ## write cdk.out/OpenViduHA.template.json
	go run .

test: ## run all tests
	go test ./...

bench: ## time and memory of a synthesis, compared with an empty CDK app
	go test -run '^$$' -bench . -benchtime 7x .

lab: ## boot the synthesized template on this machine (root, moto; see docs/lab.md)
	go run .
	cd lab && go test -count=1 -timeout 60m -skip '^TestCalls'

calls: ## real calls through the lab's cluster, measured while things happen around them (on a machine with nothing else to do)
	go run .
	cd lab && go test -count=1 -timeout 30m -run '^TestCalls'

lab-breaks: ## spoil the template on purpose and see the lab fail
	go run .
	cd lab && go run ./breaks

cost: ## what a cluster costs in a month: [FLAGS='-set DiskSize=500 -assume hours=200'] (docs/cost.md)
	go run . && go run ./internal/cost $(FLAGS)

# The licence key comes from OPENVIDU_LICENSE, a prompt or the standard input: it stays out of files, of the shell's history, and of the
# arguments of processes, which every user of the computer can read.
deploy: ## cdk deploy with the values of a file: PARAMETERS=my.json (see docs/parameters.example.json) [FLAGS=--no-rollback]
	@jq -e .Parameters '$(PARAMETERS)' >/dev/null || { echo "PARAMETERS='$(PARAMETERS)': give a JSON file like docs/parameters.example.json" >&2; exit 1; }
	@mapfile -t values < <(jq -r '.Parameters | to_entries[] | "\(.key)=\(.value)"' '$(PARAMETERS)'); \
	if [[ -t 0 ]]; then \
	[[ -n $${OPENVIDU_LICENSE-} ]] || { read -rsp 'Licence key (none: keep the one that the stack has): ' OPENVIDU_LICENSE; echo; }; \
	else \
	[[ -n $${OPENVIDU_LICENSE-} ]] || read -rt 5 OPENVIDU_LICENSE || :; \
	[[ -n $$OPENVIDU_LICENSE ]] || echo 'No terminal to ask for the licence key on, and no OPENVIDU_LICENSE: the stack keeps the one that it has.' >&2; \
	export CDK_REQUIRE_APPROVAL="$${CDK_REQUIRE_APPROVAL:-never}"; \
	fi; \
	export OPENVIDU_LICENSE NODE_OPTIONS="$${NODE_OPTIONS-} --require=$(CURDIR)/internal/deploy/license.cjs"; \
	$(CDK) deploy $(FLAGS) "$${values[@]/#/--parameters=}"

CHANGELOG ?= CHANGELOG.md
publish: ## upload the template for others: BUCKET=name [PREFIX=path] [ENDPOINT=url] [PARAMETERS=my.json]
	@[[ -n '$(BUCKET)' ]] || { echo 'no bucket is given: make publish BUCKET=name [PREFIX=path] [ENDPOINT=url] [PARAMETERS=my.json]' >&2; exit 1; }
	go run . && go run ./internal/publish -changelog '$(CHANGELOG)' -bucket '$(BUCKET)' -prefix '$(PREFIX)' -endpoint '$(ENDPOINT)' -parameters '$(PARAMETERS)'

upgrade-notes: ## what an update does to each resource: [FROM=template.json, else the newest in testdata/released]
	@go run ./internal/upgrade $(FROM)

schemas: ## renew what upgrade-notes knows of CloudFormation (needs python3 with cfn-lint)
	go run .
	python3 internal/upgrade/schemas.py cdk.out/OpenViduHA.template.json >internal/upgrade/replacing.json.new
	mv internal/upgrade/replacing.json.new internal/upgrade/replacing.json

.PHONY: pictures
# Each picture ends with the checksum of its source, by which a test knows that it was drawn since.
pictures: ## draw docs/pictures/*.svg from their .dot sources (needs graphviz)
	@command -v neato >/dev/null || { echo 'neato is missing: apt-get install graphviz' >&2; exit 1; }; \
	drawn=$$(mktemp); trap 'rm -f "$$drawn"' EXIT; \
	for source in docs/pictures/*.dot; do \
	neato -n2 -Tsvg "$$source" >"$$drawn"; \
	echo "<!-- drawn from $$(sha256sum <"$$source" | cut -d' ' -f1) -->" >>"$$drawn"; \
	cat "$$drawn" >"$${source%.dot}.svg"; done

lint: ## golangci-lint on the Go code, shfmt on the scripts
	$(GOLANGCI_LINT) run ./...
	cd lab && $(GOLANGCI_LINT) run ./...
	cd lab/calls && $(GOLANGCI_LINT) run ./...
	$(SHFMT) -d .ci constructs lab

fmt: ## format Go code and scripts
	gofmt -w .
	$(SHFMT) -w .ci constructs lab

vuln: ## known vulnerabilities in the dependencies (needs the internet: vuln.go.dev)
	$(GOVULNCHECK) ./...
	cd lab && $(GOVULNCHECK) ./...
	cd lab/calls && $(GOVULNCHECK) ./...

.PHONY: help synth test bench

help: ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/'

synth: ## write cdk.out/OpenViduHA.template.json
	go run .

test: ## run all tests
	go test ./...

bench: ## time and memory of a synthesis, compared with an empty CDK app
	go test -run '^$$' -bench . -benchtime 7x .

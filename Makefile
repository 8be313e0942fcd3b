.PHONY: help synth test bench lab lab-breaks

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/'

synth: ## write cdk.out/OpenViduHA.template.json
	go run .

test: ## run all tests
	go test ./...

bench: ## time and memory of a synthesis, compared with an empty CDK app
	go test -run '^$$' -bench . -benchtime 7x .

lab: ## boot the synthesized template on this machine (root, moto; see docs/lab.md)
	go run .
	cd lab && go test -count=1 -timeout 30m

lab-breaks: ## spoil the template on purpose and see the lab fail
	go run .
	cd lab && go run ./breaks

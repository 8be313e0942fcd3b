package main

// version of this program and of the template that it writes, by semver.org. It says to whom a change matters: see
// CONTRIBUTING.md, Releases.
const version = "0.1.0"

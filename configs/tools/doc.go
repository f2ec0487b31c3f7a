// Package tools checks what ships the program, where a parser is needed that the
// program itself does without: docker-compose.yml by the loader of Docker Compose,
// the Dockerfile by the parser and the linter of BuildKit, the Jenkinsfile by the
// compiler of Groovy, the load tests of configs/load by running the scripts of k6
// with stand-ins for its modules, and by Vegeta's own reader of targets. It has tests only, and a module of its own, so that none of
// those libraries is among what the program depends on.
//
// What these files say to the program, its settings above all, is checked beside
// the program, in pkg/app.
package tools

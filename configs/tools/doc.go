// Package tools checks what ships the program, where a parser is needed that the
// program itself does without: docker-compose.yml by the loader of Docker Compose,
// the Dockerfile by the parser and the linter of BuildKit, the Jenkinsfile by the
// compiler of Groovy, and the scripts of k6 in configs/load by running them with
// stand-ins for its modules. It has tests only, and a module of its own, so that none of
// those libraries is among what the program depends on.
//
// What these files say to the program, its settings above all, is checked beside
// the program, in pkg/app.
package tools

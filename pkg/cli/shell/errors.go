package shell

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"unicode"

	"github.com/keywarden/keywarden/pkg/cli/adminclient"
	"github.com/keywarden/keywarden/pkg/config"
	"github.com/keywarden/keywarden/pkg/problem"
)

// usageError is a mistake in how the program was called.
type usageError struct{ error }

// Usage is the error for a mistake in how the program was called.
func Usage(err error) error { return usageError{err} }

func (e usageError) Unwrap() error { return e.error }

// exitError ends the program with a code of its own and says nothing: what there is
// to say is on standard output.
type exitError struct{ code int }

// Exit is the error that ends the program with a code and says nothing.
func Exit(code int) error { return exitError{code} }

// Error implements error.
func (e exitError) Error() string { return "exit code " + strconv.Itoa(e.code) }

// Codes of an answer that is not the admin API's: it has another host or listener.
const (
	codeNoRoute     = "gateway.no_route"
	codeNothingHere = "request.nothing_here"
)

// ExitOf is the exit code for an error of a command.
func ExitOf(err error) int {
	var coded exitError
	var refused *adminclient.Error
	var usage usageError
	var mistakes config.Errors
	switch {
	case errors.As(err, &coded):
		return coded.code
	case errors.Is(err, adminclient.ErrUnreachable):
		return ExitRemote
	case errors.As(err, &refused):
		return exitOfRefusal(refused)
	case errors.As(err, &usage), errors.As(err, &mistakes):
		return ExitUsage
	}
	return ExitFailure
}

// exitOfRefusal is the exit code for what a server has refused.
func exitOfRefusal(refused *adminclient.Error) int {
	switch refused.Status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return ExitUsage
	case http.StatusConflict, http.StatusPreconditionFailed:
		return ExitFailure
	case http.StatusNotFound:
		if refused.Code != codeNoRoute && refused.Code != codeNothingHere {
			return ExitFailure
		}
	}
	return ExitRemote
}

// Explain is the text of err for a person at a terminal: a problem says what its
// public sentence says, with its fields, and why where it is not the caller's
// mistake. It is empty where everything is said.
func Explain(err error) string {
	var p *problem.Error
	var refused *adminclient.Error
	if errors.As(err, new(exitError)) {
		return ""
	}
	if errors.As(err, &refused) {
		return explainRemote(refused)
	}
	if errors.Is(err, adminclient.ErrUnreachable) {
		return Printable(err.Error()) + "\nIs it running? Name it with --server or " + ServerVar + "."
	}
	if !errors.As(err, &p) {
		if errors.Is(err, syscall.EADDRINUSE) {
			return err.Error() + "\nAnother program listens there: stop it, or choose another address (dev: --addr, serve: --set server.addr)"
		}
		return err.Error()
	}
	var b strings.Builder
	b.WriteString(p.Detail)
	for _, f := range p.Fields {
		_, _ = fmt.Fprintf(&b, "\n  %s %s", f.Field, f.Detail)
	}
	if cause := p.Unwrap(); cause != nil && p.Kind.Status() >= http.StatusInternalServerError {
		_, _ = fmt.Fprintf(&b, "\n  cause: %v", cause)
	}
	return b.String()
}

// explainRemote is the text of a refusal of the server: what it said, what is
// wrong, and what to do next.
func explainRemote(refused *adminclient.Error) string {
	var b strings.Builder
	b.WriteString(Printable(refused.Error()))
	for _, f := range refused.Errors {
		_, _ = fmt.Fprintf(&b, "\n  %s %s", Printable(f.Field), Printable(f.Detail))
	}
	switch refused.Code {
	case "config.changed", "config.exists":
		b.WriteString("\nSomebody else changed it. Look at keywarden config diff, and apply again.")
	case "config.unknown_revision":
		b.WriteString("\nList them with keywarden config revisions.")
	case "auth.missing", "auth.key_invalid", "auth.token_invalid", "auth.method_not_accepted":
		b.WriteString("\nMake a key with the scope config:read, and config:write for changes, and set " + APIKeyVar + ".")
	case codeNoRoute, codeNothingHere:
		b.WriteString("\nThe admin API is not on this address or host; set --server or " + ServerVar + ".")
	}
	if refused.RequestID != "" && refused.Status >= http.StatusInternalServerError {
		b.WriteString("\nRequest id: " + Printable(refused.RequestID))
	}
	return b.String()
}

// Printable keeps text of others from steering the terminal.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

// Package basicauth presents a user name and a password (Basic, RFC 7617) to a
// service that asks for them. They are the gateway's own: the caller has been
// authenticated otherwise, and never learns them.
package basicauth

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/seal"
)

// maxPassword bounds the file with the password, in bytes.
const maxPassword = 1 << 10

// New makes the step, and reads the password from its file, without a line break
// at its end. It is only handed to the proxy, which puts it into the outbound
// request after the caller's own was removed.
func New(username, passwordFile string) (policy.Step, error) {
	if username == "" || strings.Contains(username, ":") || !isPlain(username) {
		return policy.Step{}, errors.New("the user name must not be empty, and not hold a colon or a control character")
	}
	password, err := read(passwordFile)
	if err != nil {
		return policy.Step{}, err
	}
	value := seal.NewSecret("Basic " + base64.StdEncoding.EncodeToString([]byte(username+":"+password)))
	return policy.Step{Apply: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			reqctx.From(r.Context()).Authorization = value
			next.ServeHTTP(w, r)
		})
	}}, nil
}

// read returns the password in a file. What the file holds is in no error.
func read(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", fmt.Errorf("reading the password: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	text, err := io.ReadAll(io.LimitReader(f, maxPassword+1))
	if err != nil {
		return "", fmt.Errorf("reading the password: %w", err)
	}
	password := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	if len(text) > maxPassword || password == "" || !isPlain(password) {
		return "", fmt.Errorf("reading the password: %s must hold one line of at most %d bytes", name, maxPassword)
	}
	return password, nil
}

// isPlain reports whether s is text without control characters.
func isPlain(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, func(c rune) bool { return c < ' ' || c >= 0x7F && c < 0xA0 }) < 0
}

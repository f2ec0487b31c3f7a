package app_test

import (
	"bufio"
	"crypto/rand"
	"errors"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/gateway/attacktest"
)

// fixtureDocument is the document of the attack cases with another backend.
func fixtureDocument(t *testing.T, backend string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(attackDir, "gateway.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), attacktest.DefaultUpstreamAddr) {
		t.Fatal("the fixture document does not name its backend")
	}
	return strings.ReplaceAll(string(text), attacktest.DefaultUpstreamAddr, backend)
}

// startBehind starts the program with the fixture document in front of a
// recording backend of the test's own.
func startBehind(t *testing.T, o apptest.Options) (*apptest.Program, *attacktest.Upstream) {
	t.Helper()
	up := attacktest.Start(t, "127.0.0.1:0")
	o.Gateway = fixtureDocument(t, up.Addr())
	return apptest.Start(t, o), up
}

// ---- talking without a library

// patience bounds every read and write of a raw connection.
const patience = 30 * time.Second

// wireAnswer is an answer as it came over the wire.
type wireAnswer struct {
	Proto  string // "HTTP/1.1"
	Status int
	Header http.Header
	Body   string
	Broken bool // the body ended before its framing said so
}

// rawRequest is a request that asks for the connection to be closed. lines are
// further header lines.
func rawRequest(requestLine string, lines ...string) string {
	all := append([]string{requestLine, "Host: client.test", "Connection: close"}, lines...)
	return strings.Join(all, "\r\n") + "\r\n\r\n"
}

func dialRaw(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// speak sends text on a connection of its own, reading meanwhile, and returns
// every answer, interim ones included, until the server closes the connection.
func speak(t *testing.T, addr, text string) []wireAnswer {
	t.Helper()
	conn := dialRaw(t, addr)
	var sending sync.WaitGroup
	sending.Go(func() { _, _ = io.WriteString(conn, text) }) // refusing to take it all is an answer too
	defer sending.Wait()
	defer func() { _ = conn.Close() }()
	method, _, _ := strings.Cut(text, " ")
	br := bufio.NewReader(conn)
	var answers []wireAnswer
	for {
		a, err := readAnswer(br, method)
		var timeout net.Error
		switch {
		case errors.As(err, &timeout) && timeout.Timeout():
			t.Fatalf("the connection stays open after %d answers to %.200q", len(answers), text)
		case err != nil:
			return answers
		}
		answers = append(answers, a)
	}
}

// readAnswer reads one answer to a request with the method; err says that there
// is none.
func readAnswer(br *bufio.Reader, method string) (wireAnswer, error) {
	resp, err := http.ReadResponse(br, &http.Request{Method: method})
	if err != nil {
		return wireAnswer{}, err
	}
	a := wireAnswer{Proto: resp.Proto, Status: resp.StatusCode, Header: resp.Header}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return a, nil
	}
	body, err := io.ReadAll(resp.Body)
	a.Body, a.Broken = string(body), err != nil
	return a, nil
}

// ask is speak for one request; it returns the one final answer to it.
func ask(t *testing.T, addr, text string) wireAnswer {
	t.Helper()
	var final []wireAnswer
	for _, a := range speak(t, addr, text) {
		if a.Status >= 200 || a.Status == http.StatusSwitchingProtocols {
			final = append(final, a)
		}
	}
	if len(final) != 1 {
		t.Fatalf("%d answers to %.200q, want one", len(final), text)
	}
	return final[0]
}

// askBehind is ask, with what reached the backend meanwhile.
func askBehind(t *testing.T, p *apptest.Program, up *attacktest.Upstream, text string) (wireAnswer, []attacktest.Request) {
	t.Helper()
	mark := up.Mark()
	a := ask(t, p.Addr, text)
	up.Settle(t.Context())
	return a, up.Since(mark)
}

// forwarded is askBehind for a request that must be answered 200 by the backend.
func forwarded(t *testing.T, p *apptest.Program, up *attacktest.Upstream, text string) attacktest.Request {
	t.Helper()
	a, seen := askBehind(t, p, up, text)
	if a.Status != http.StatusOK || len(seen) != 1 {
		t.Fatalf("%.300q: status %d, the backend got %d requests; want 200 and one: %s", text, a.Status, len(seen), a.Body)
	}
	return seen[0]
}

// fieldValues are the values of a field of a recorded request, whatever the
// letters' case.
func fieldValues(r attacktest.Request, name string) []string {
	var values []string
	for _, f := range r.Header {
		if strings.EqualFold(f.Name, name) {
			values = append(values, f.Value)
		}
	}
	return values
}

// everything is all that a recorded request says, for searching.
func everything(r attacktest.Request) string {
	var b strings.Builder
	b.WriteString(r.Method + " " + r.Target + "\n")
	for _, f := range r.Header {
		b.WriteString(f.Name + ": " + f.Value + "\n")
	}
	b.WriteString(r.Body + "\n" + strings.Join(r.Trailers, "\n"))
	return b.String()
}

// ---- keys that nobody was given

// Lengths of the parts of a key after its last underscore.
const (
	keyIDLength     = 12
	keySecretLength = 32
	keyCheckLength  = 6
)

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// randomText is n characters of which a key may consist.
func randomText(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails (crypto/rand, Go 1.24)
	for i := range b {
		b[i] = base62[int(b[i])%len(base62)]
	}
	return string(b)
}

// checked appends the check of a key to what comes before it.
func checked(head string) string {
	sum := crc32.ChecksumIEEE([]byte(head))
	check := make([]byte, keyCheckLength)
	for i := len(check) - 1; i >= 0; i-- {
		check[i] = base62[sum%62]
		sum /= 62
	}
	return head + string(check)
}

// unknownKey is well-formed and belongs to nobody.
func unknownKey() string { return checked("kw_live_" + randomText(keyIDLength+keySecretLength)) }

// guessOf is a well-formed key with the public id of a real one and another
// secret.
func guessOf(key string) string {
	return checked(key[:len("kw_live_")+keyIDLength] + randomText(keySecretLength))
}

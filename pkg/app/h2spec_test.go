package app_test

import (
	"crypto/tls"
	"encoding/xml"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// h2specVariable names the program h2spec; "make test-h2" installs it and sets it.
const h2specVariable = "KEYWARDEN_H2SPEC"

// TestH2SpecFindsNothingThatPlainNetHTTPDoesNotHave runs h2spec against the
// program's TLS listener and against a bare server of net/http with the same
// limits: what fails on both is Go's, what fails on ours alone is ours.
func TestH2SpecFindsNothingThatPlainNetHTTPDoesNotHave(t *testing.T) {
	h2spec := os.Getenv(h2specVariable)
	if h2spec == "" {
		t.Skip("needs h2spec: run make test-h2")
	}
	p, _, servers := startH2(t)
	ours := runH2Spec(t, h2spec, p.Addr)
	plain := runH2Spec(t, h2spec, plainH2(t, servers.issue(named("gateway.test"))))
	for name, r := range map[string]h2Report{"this program": ours, "net/http": plain} {
		t.Logf("%s: %d tests, %d passed, %d skipped, %d failed", name, r.tests, r.tests-r.skipped-len(r.failed), r.skipped, len(r.failed))
		if r.tests < 140 {
			t.Errorf("%s: only %d tests were run", name, r.tests)
		}
	}
	for _, name := range ours.failed {
		if slices.Contains(plain.failed, name) {
			t.Logf("fails on both: %s", name)
		} else {
			t.Errorf("fails on this program alone: %s", name)
		}
	}
	for _, name := range plain.failed {
		if !slices.Contains(ours.failed, name) {
			t.Logf("fails on net/http alone: %s", name)
		}
	}
}

// plainH2 runs net/http's own server with the limits of ours.
func plainH2(t *testing.T, c tls.Certificate) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, "ok")
		}),
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: h2HeaderBytes - 4096,
		HTTP2:     &http.HTTP2Config{MaxConcurrentStreams: h2Streams, MaxReceiveBufferPerStream: 256 << 10, MaxReceiveBufferPerConnection: 1 << 20},
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{c}, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12},
	}
	done := make(chan error, 1)
	go func() { done <- server.ServeTLS(l, "", "") }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// h2Report is what h2spec found.
type h2Report struct {
	tests, skipped int
	failed         []string // "http2/8.1.2.2: title"
}

// runH2Spec runs h2spec with the checks of what the standard only advises, too.
func runH2Spec(t *testing.T, h2spec, addr string) h2Report {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "report.xml")
	cmd := exec.CommandContext(t.Context(), h2spec, "-S", "-t", "-k", "-h", host, "-p", port, "-P", "/open/x", "-o", "5", "-j", file)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) { // 1 when a test fails
		t.Fatalf("h2spec: %v", err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var suites struct {
		Suite []struct {
			Case []struct {
				Package   string    `xml:"package,attr"`
				ClassName string    `xml:"classname,attr"`
				Failure   *struct{} `xml:"failure"`
				Error     *struct{} `xml:"error"`
				Skipped   *struct{} `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(text, &suites); err != nil {
		t.Fatal(err)
	}
	var r h2Report
	for _, suite := range suites.Suite {
		for _, c := range suite.Case {
			r.tests++
			switch {
			case c.Failure != nil || c.Error != nil:
				r.failed = append(r.failed, strings.TrimSpace(c.Package+": "+c.ClassName))
			case c.Skipped != nil:
				r.skipped++
			}
		}
	}
	return r
}

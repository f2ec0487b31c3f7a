package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/keywarden/keywarden/pkg/cli/shell"
	"github.com/keywarden/keywarden/pkg/config"
)

// healthTimeout bounds one question. It is less than what the image allows.
const healthTimeout = 3 * time.Second

// askOwnHealth asks the configured main listener on this machine.
func askOwnHealth(ctx context.Context, cfg *config.Config) error {
	addr, err := ownAddress(cfg.Server.Addr)
	if err != nil {
		return err
	}
	t := cfg.Server.TLS
	files := t.CertFile != "" || t.Dir != ""
	switch {
	case !files && len(t.ACME.Domains) == 0:
		return askHealth(ctx, "http://"+addr+"/healthz")
	case !files, t.ClientCAFile != "" && t.ClientAuth == "require":
		return shakeHands(ctx, addr)
	default:
		return askHealth(ctx, "https://"+addr+"/healthz")
	}
}

// ownAddress is where a listener is reached from its own machine.
func ownAddress(listen string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", fmt.Errorf("server.addr: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}

// shakeHands asks a listener that lets nobody in without a certificate of a client,
// or that has none itself before the authority of ACME has given it one: a refusal
// in TLS is a sign of life, too. No name is asked for, so that nothing is ordered.
func shakeHands(ctx context.Context, addr string) error {
	dialer := &tls.Dialer{Config: ownTLS()}
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err == nil {
		_ = conn.Close()
		return nil
	}
	var refused *net.OpError
	if errors.As(err, &refused) && refused.Op == "remote error" { // a TLS alert
		return nil
	}
	return fmt.Errorf("not healthy: %w", err)
}

// askHealth asks url, which answers 200 while the process lives.
func askHealth(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return shell.Usage(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: ownTLS()}}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("not healthy: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("not healthy: %s answered %s", url, resp.Status)
	}
	return nil
}

// ownTLS is for our own listener on this machine, whose certificate is for another
// name; nothing secret is sent and nothing but the status is read.
func ownTLS() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true} //nolint:gosec // see above
}

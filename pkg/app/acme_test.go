package app_test

import (
	"bytes"
	"crypto/tls"
	"maps"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/acme/acmetest"
	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
)

// acmeOptions are those of a program that gets its certificate from the authority.
func acmeOptions(a *acmetest.Authority, more map[string]string) map[string]string {
	set := map[string]string{
		"server.tls.acme.domains": "gateway.test", "server.tls.acme.email": "ops@example.com",
		"server.tls.acme.directory_url": a.DirectoryURL, "server.tls.acme.ca_file": a.CAFile,
	}
	maps.Copy(set, more)
	return set
}

// TestReplicasShareACertificateOfACME is the whole of it, with PostgreSQL between
// the replicas: one order, the same certificate on both, also after a restart, and
// nothing in the table that could be read.
func TestReplicasShareACertificateOfACME(t *testing.T) {
	addr := freeAddress(t)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	authority := acmetest.Start(t, number, 24*time.Hour)
	clients := newAuthority(t, "clients")
	// No certificate, no connection; the authority's server has none either.
	require := map[string]string{"server.tls.client_ca_file": clients.file, "server.tls.client_auth": "require", "server.addr": addr}
	first := apptest.Start(t, apptest.Options{Set: acmeOptions(authority, require)})
	config := &tls.Config{
		RootCAs: authority.Roots, ServerName: "gateway.test", MinVersion: tls.VersionTLS12,
		Certificates: []tls.Certificate{clients.issue(named("client"))},
	}
	shown := func(p *apptest.Program) []byte {
		t.Helper()
		client := httpsClient(t, config, false)
		a, err := getHTTPS(t, client, p, "/health")
		if err != nil || a.Status != http.StatusOK {
			t.Fatalf("status %d, %v\n%s", a.Status, err, p.Log)
		}
		conn, err := tls.Dial("tcp", p.Addr, config)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		return conn.ConnectionState().PeerCertificates[0].Raw
	}
	certificate := shown(first)

	options := apptest.Options{DatabaseURL: first.DatabaseURL, MasterKey: first.MasterKey, Set: acmeOptions(authority, nil)}
	second := apptest.Start(t, options)
	if !bytes.Equal(shown(second), certificate) {
		t.Error("two replicas show two certificates")
	}
	if err := second.Stop(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(shown(apptest.Start(t, options)), certificate) {
		t.Error("after a restart there is another certificate")
	}
	if orders, accounts := authority.Orders(), authority.Accounts(); orders != 1 || accounts != 1 {
		t.Errorf("%d orders of %d accounts, want one", orders, accounts)
	}

	db := apptest.Connect(t, first.DatabaseURL)
	rows, err := db.Query(t.Context(), `SELECT name, sealed FROM acme_items`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	n := 0
	for rows.Next() {
		var name string
		var sealed []byte
		if err := rows.Scan(&name, &sealed); err != nil {
			t.Fatal(err)
		}
		n++
		for _, trace := range []string{"PRIVATE", "CERTIFICATE", "-----", "gateway.test", string(certificate)} {
			if bytes.Contains(sealed, []byte(trace)) {
				t.Errorf("%s can be read in the table", name)
			}
		}
	}
	if rows.Err() != nil || n < 2 {
		t.Errorf("%d items are stored, %v", n, rows.Err())
	}
}

// A name that is not configured fails its handshake, and nobody is asked.
func TestUnknownNamesAreNotAskedForAtTheAuthority(t *testing.T) {
	authority := acmetest.Start(t, 1, time.Hour)
	servers := newAuthority(t, "servers")
	p := apptest.Start(t, apptest.Options{Set: acmeOptions(authority, nil)})
	withFile := apptest.Start(t, apptest.Options{Set: newKeyPair(t, servers).options(acmeOptions(authority, map[string]string{"server.tls.acme.domains": "other.test"}))})
	for _, name := range []string{"unknown.test", "sub.gateway.test", ""} {
		conn, err := tls.Dial("tcp", p.Addr, &tls.Config{ServerName: name, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
		if err == nil {
			_ = conn.Close()
			t.Errorf("%q is served", name)
		}
	}
	// Beside a certificate in a file, that serves them.
	if a, err := getHTTPS(t, httpsClient(t, servers.config(), true), withFile, "/health"); err != nil || a.Status != http.StatusOK {
		t.Errorf("a name of the file: status %d, %v", a.Status, err)
	}
	if n := authority.Orders() + authority.Accounts(); n != 0 {
		t.Errorf("the authority was asked %d times", n)
	}
}

func TestACMEOptionsThatCannotWorkEndTheStart(t *testing.T) {
	for name, env := range map[string]map[string]string{
		"wildcard": {"KEYWARDEN_SERVER_TLS_ACME_DOMAINS": "*.gateway.test"},
		"no file":  {"KEYWARDEN_SERVER_TLS_ACME_DOMAINS": "gateway.test", "KEYWARDEN_SERVER_TLS_ACME_CA_FILE": "/does/not/exist"},
	} {
		t.Run(name, func(t *testing.T) {
			env["KEYWARDEN_SERVER_ADDR"], env["DATABASE_URL"] = "127.0.0.1:0", pgtest.New(t)
			env["KEYWARDEN_MASTER_KEY"] = seal.NewMasterKey().Reveal()
			code, _, stderr := runCommand(t, env, "serve")
			if code == 0 || !strings.Contains(stderr, "acme") {
				t.Errorf("exit code %d: %s", code, stderr)
			}
		})
	}
}

package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"
)

// expirySoon is how many days before its end a certificate should have been replaced.
const expirySoon = 21 * 24 * time.Hour

// Pair is a certificate and its key, both PEM files.
type Pair struct{ CertFile, KeyFile string }

// CertificateFiles are the files with certificates of one user of them.
type CertificateFiles struct {
	Name  string   // such as "server.tls", or the name of a service
	Pairs []Pair   // of its own
	CAs   []string // PEM files with authorities
	Dir   string   // folder with further pairs, as certstore reads it
}

// Certificates looks at the files: they can be read, belong together, and have not expired.
func Certificates(users []CertificateFiles, now func() time.Time) Check {
	const area = "certificates"
	if !slices.ContainsFunc(users, func(u CertificateFiles) bool { return len(u.Pairs)+len(u.CAs) > 0 || u.Dir != "" }) {
		return Absent(area, "none in files are configured")
	}
	return Check{Area: area, Run: func(context.Context) (found []Finding) {
		for _, u := range users {
			for _, p := range append(u.Pairs, pairsOf(u.Dir)...) {
				found = append(found, pair(u.Name, p, now())...)
			}
			for _, file := range u.CAs {
				found = append(found, authorities(u.Name, file, now()))
			}
			if u.Dir != "" && len(pairsOf(u.Dir)) == 0 {
				found = append(found, warning(u.Name, u.Dir+" holds no certificates", "Put name.crt beside name.key, or folders with tls.crt and tls.key."))
			}
		}
		return found
	}}
}

// pairsOf lists the pairs in a folder: name.crt beside name.key, and tls.crt beside
// tls.key in folders.
func pairsOf(dir string) (pairs []Pair) {
	if dir == "" {
		return nil
	}
	for _, pattern := range []string{"*.crt", filepath.Join("*", "tls.crt")} {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil { // a folder with a bracket in its name
			continue
		}
		for _, file := range files {
			pairs = append(pairs, Pair{file, file[:len(file)-len("crt")] + "key"})
		}
	}
	return pairs
}

func pair(name string, p Pair, now time.Time) []Finding {
	for _, file := range []string{p.CertFile, p.KeyFile} {
		if _, err := os.ReadFile(file); err != nil {
			return []Finding{failed(name, err.Error(), "Put the file there, and let the user that runs the program read it.")}
		}
	}
	loaded, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile)
	if err != nil {
		return []Finding{failed(name, fmt.Sprintf("%s and %s: %v", p.CertFile, p.KeyFile, err), "Put the key beside the certificate that it was made for; see docs/runbooks/certificate-renewal.md.")}
	}
	found := []Finding{expiry(name, p.CertFile, loaded.Leaf, now)}
	if info, err := os.Stat(p.KeyFile); err == nil && info.Mode().Perm()&0o007 != 0 && runtime.GOOS != "windows" {
		found = append(found, warning(name, p.KeyFile+" can be read by everybody on this machine", "chmod o= "+p.KeyFile))
	}
	return found
}

// expiry says how long a certificate is good for.
func expiry(name, file string, leaf *x509.Certificate, now time.Time) Finding {
	left := leaf.NotAfter.Sub(now)
	const day = 24 * time.Hour
	detail := fmt.Sprintf("%s (%s): %s left, until %s", file, subject(leaf), count(int(left/day), "day"), leaf.NotAfter.UTC().Format(time.DateOnly))
	switch {
	case left <= 0:
		return failed(name, fmt.Sprintf("%s (%s) has expired on %s", file, subject(leaf), leaf.NotAfter.UTC().Format(time.DateOnly)), "Renew it now: docs/runbooks/certificate-renewal.md.")
	case now.Before(leaf.NotBefore):
		return failed(name, fmt.Sprintf("%s (%s) is good from %s only", file, subject(leaf), leaf.NotBefore.UTC().Format(time.RFC3339)), "Check the clock of this machine, or use the certificate before.")
	case left < expirySoon:
		return warning(name, detail, "Renew it: docs/runbooks/certificate-renewal.md.")
	}
	return ok(name, detail)
}

func subject(c *x509.Certificate) string {
	if len(c.DNSNames) > 0 {
		return c.DNSNames[0]
	}
	if c.Subject.CommonName != "" {
		return c.Subject.CommonName
	}
	return "no name"
}

// authorities looks at a file of authorities; the one that ends first counts.
func authorities(name, file string, now time.Time) Finding {
	text, err := os.ReadFile(file)
	if err != nil {
		return failed(name, err.Error(), "Put the file there, and let the user that runs the program read it.")
	}
	var first *x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if block.Type != "CERTIFICATE" || err != nil {
			continue
		}
		if first == nil || c.NotAfter.Before(first.NotAfter) {
			first = c
		}
	}
	if first == nil {
		return failed(name, file+" holds no certificate in PEM form", "Put the authority's certificate there.")
	}
	return expiry(name, file, first, now)
}

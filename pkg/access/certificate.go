package access

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
)

// maxName bounds the name of a certificate, in bytes.
const maxName = 128

// certified is the principal of a client that has shown a certificate of one of
// our authorities in this connection; nil for all others. What a header says of
// certificates is of no interest: anybody can write one.
func certified(state *tls.ConnectionState) *Principal {
	if state == nil || len(state.VerifiedChains) == 0 || len(state.VerifiedChains[0]) == 0 {
		return nil
	}
	leaf := state.VerifiedChains[0][0]
	sum := sha256.Sum256(leaf.Raw)
	return &Principal{Kind: KindCertificate, UserID: "sha256:" + hex.EncodeToString(sum[:]), KeyName: nameOf(leaf)}
}

// nameOf is the name that a certificate is known by: its first URI (as SPIFFE has
// it), DNS name or common name that can stand in a header field.
func nameOf(c *x509.Certificate) string {
	var names []string
	for _, u := range c.URIs {
		names = append(names, u.String())
	}
	for _, name := range append(append(names, c.DNSNames...), c.Subject.CommonName) {
		if printable(name) {
			return name
		}
	}
	return ""
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return s != "" && len(s) <= maxName
}

package services

import "github.com/keywarden/keywarden/pkg/spec/check"

// BackendTLS is how an https service is checked, and how the gateway shows who
// it is. The files are read when the document is applied.
type BackendTLS struct {
	// CAFile is a PEM file with the authorities that are trusted, instead of those
	// of the system.
	CAFile string `json:"ca_file,omitempty"`

	// CertFile and KeyFile are PEM files with the gateway's own certificate, for
	// services that ask for one (mTLS).
	CertFile string `json:"cert_file,omitempty"`
	KeyFile  string `json:"key_file,omitempty"`

	// ServerName is the name that the service's certificate must have, and that is
	// sent (SNI), instead of the host.
	ServerName string `json:"server_name,omitempty"`
}

// The protocols that are spoken with a service.
const (
	ProtocolAuto  = "auto"  // HTTP/2 where the service offers it over TLS, else HTTP/1.1
	ProtocolHTTP1 = "http1" // HTTP/1.1 only
	ProtocolH2C   = "h2c"   // HTTP/2 without TLS
)

func (t *BackendTLS) Validate(path string, https bool, v *check.Checker) {
	t.validateFor(path, "https services", https, v)
}

// validateFor checks what a connection over TLS needs; whose it belongs to is for
// the message.
func (t *BackendTLS) validateFor(path, whose string, https bool, v *check.Checker) {
	if !https {
		v.Fail(path, "belongs to %s", whose)
	}
	if (t.CertFile == "") != (t.KeyFile == "") {
		v.Fail(path, "must have both of cert_file and key_file, or none")
	}
}

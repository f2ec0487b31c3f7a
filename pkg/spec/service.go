package spec

import (
	"net/url"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/canonical"
)

// Service is a backend.
type Service struct {
	Name string `json:"name"`

	// URL is http or https, host, optional port and optional base path, which is
	// put before the path of every request.
	URL string `json:"url"`

	// ConnectTimeout bounds the connection to the backend: its TCP handshake and,
	// again, its TLS handshake.
	ConnectTimeout Duration `json:"connect_timeout"`

	// ResponseTimeout bounds the time from the end of the request to the header of
	// the response. The body may take any time.
	ResponseTimeout Duration `json:"response_timeout"`
}

// Defaults of a service.
const (
	DefaultConnectTimeout  = Duration(2 * time.Second)
	DefaultResponseTimeout = Duration(30 * time.Second)
)

func (s *Service) setDefaults() {
	s.ConnectTimeout = DefaultConnectTimeout
	s.ResponseTimeout = DefaultResponseTimeout
}

// normalise brings the URL into its normal form; one without is left for the
// validation to refuse.
func (s *Service) normalise() {
	if u, err := parseServiceURL(s.URL); err == nil {
		s.URL = u.String()
	}
}

func (s *Service) validate(path string, v *validator) {
	v.name(path, s.Name)
	switch u, err := parseServiceURL(s.URL); {
	case s.URL == "":
		v.required(path + ".url")
	case err != nil:
		v.fail(path+".url", "%s", err.Error())
	case u.String() != s.URL:
		v.fail(path+".url", "is not in its normal form, %s", u)
	}
	v.timeout(path+".connect_timeout", s.ConnectTimeout)
	v.timeout(path+".response_timeout", s.ResponseTimeout)
}

// Target is the parsed URL of the service. Its path is canonical and has no
// trailing slash, so that the path of a request can be appended.
func (s *Service) Target() (*url.URL, error) { return parseServiceURL(s.URL) }

func parseServiceURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, errText("must be a URL such as http://users.internal:8081")
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https" || u.Opaque != "" || u.Host == "":
		return nil, errText("must be an http or https URL with a host, such as http://users.internal:8081")
	case u.User != nil:
		return nil, errText("must not hold a user name or password")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(text, "#"):
		return nil, errText("must not have a query or a fragment")
	}
	host, port, err := canonical.Host(u.Host)
	if err != nil {
		return nil, errText("must have a valid host, and a port from 1 to 65535 if any")
	}
	if port != "" {
		host += ":" + port
	}
	target := &url.URL{Scheme: u.Scheme, Host: host}
	if base := strings.TrimSuffix(u.EscapedPath(), "/"); base != "" {
		decoded, escaped, err := canonicalPath(base)
		if err != nil {
			return nil, err
		}
		target.Path, target.RawPath = decoded, escaped
	}
	return target, nil
}

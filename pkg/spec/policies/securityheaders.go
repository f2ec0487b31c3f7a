package policies

import (
	"strings"

	"github.com/keywarden/keywarden/pkg/header"
	"github.com/keywarden/keywarden/pkg/spec/check"
)

// SecurityHeaders adds the header fields by which browsers protect a site to every
// answer, also to those of the gateway. Where a field is not named its default
// stands in, unless the service says something itself; a value here replaces what
// the service says, and "off" leaves the field alone.
type SecurityHeaders struct {
	Gate

	// StrictTransportSecurity is sent over https only. Default: max-age=31536000.
	StrictTransportSecurity string `json:"strict_transport_security,omitempty"`

	// ContentTypeOptions is nosniff, the default.
	ContentTypeOptions string `json:"content_type_options,omitempty"`

	// FrameOptions is DENY, the default, or SAMEORIGIN.
	FrameOptions string `json:"frame_options,omitempty"`

	// ContentSecurityPolicy has no default.
	ContentSecurityPolicy string `json:"content_security_policy,omitempty"`

	// ReferrerPolicy defaults to strict-origin-when-cross-origin.
	ReferrerPolicy string `json:"referrer_policy,omitempty"`

	// PermissionsPolicy defaults to camera=(), geolocation=(), microphone=().
	PermissionsPolicy string `json:"permissions_policy,omitempty"`

	// CrossOriginOpenerPolicy defaults to same-origin.
	CrossOriginOpenerPolicy string `json:"cross_origin_opener_policy,omitempty"`

	// CrossOriginResourcePolicy defaults to same-origin.
	CrossOriginResourcePolicy string `json:"cross_origin_resource_policy,omitempty"`

	// CrossOriginEmbedderPolicy has no default.
	CrossOriginEmbedderPolicy string `json:"cross_origin_embedder_policy,omitempty"`

	// Remove names fields that are taken away. Default: Server, X-Powered-By and
	// others that tell what the service is made with.
	Remove []string `json:"remove,omitempty"`
}

// headerOff as a value leaves a field alone.
const headerOff = "off"

func (s *SecurityHeaders) Validate(path string, v *check.Checker) {
	for _, f := range []struct {
		name, value string
		of          []string // nil: any text
	}{
		{"strict_transport_security", s.StrictTransportSecurity, nil},
		{"content_type_options", s.ContentTypeOptions, []string{"nosniff"}},
		{"frame_options", s.FrameOptions, []string{"DENY", "SAMEORIGIN"}},
		{"content_security_policy", s.ContentSecurityPolicy, nil},
		{"referrer_policy", s.ReferrerPolicy, []string{
			"no-referrer", "no-referrer-when-downgrade", "origin", "origin-when-cross-origin", "same-origin", "strict-origin",
			"strict-origin-when-cross-origin", "unsafe-url",
		}},
		{"permissions_policy", s.PermissionsPolicy, nil},
		{"cross_origin_opener_policy", s.CrossOriginOpenerPolicy, []string{
			"same-origin", "same-origin-allow-popups", "noopener-allow-popups", "unsafe-none",
		}},
		{"cross_origin_resource_policy", s.CrossOriginResourcePolicy, []string{"same-origin", "same-site", "cross-origin"}},
		{"cross_origin_embedder_policy", s.CrossOriginEmbedderPolicy, []string{"require-corp", "credentialless", "unsafe-none"}},
	} {
		switch {
		case f.value == "" || f.value == headerOff:
		case f.of != nil:
			v.OneOf(path+"."+f.name, f.value, append(f.of, headerOff)...)
		default:
			v.FieldValue(path+"."+f.name, f.value)
		}
	}
	if hsts := s.StrictTransportSecurity; hsts != "" && hsts != headerOff && !strings.HasPrefix(strings.ToLower(hsts), "max-age=") {
		v.Fail(path+".strict_transport_security", "must begin with max-age=, such as max-age=31536000; includeSubDomains")
	}
	v.FieldNames(path+".remove", s.Remove, header.CheckResponse)
}

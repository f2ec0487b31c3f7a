// Package securityheaders adds to every answer the header fields by which browsers
// protect a site, and takes away those that tell what it runs on.
package securityheaders

import (
	"fmt"
	"net/http"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/gateway/respwriter"
	"github.com/keywarden/keywarden/pkg/header"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// Off as a value leaves a field alone.
const Off = "off"

// Config is what the fields say. There is no default Content-Security-Policy: that
// depends on the pages, and browsers prefer its frame-ancestors to FrameOptions. Where a value is empty the default stands in,
// unless the service says something itself; any other value replaces what the
// service says.
type Config struct {
	StrictTransportSecurity   string // over https only (RFC 6797 section 7.2)
	ContentTypeOptions        string
	FrameOptions              string
	ContentSecurityPolicy     string
	ReferrerPolicy            string
	PermissionsPolicy         string
	CrossOriginOpenerPolicy   string
	CrossOriginResourcePolicy string
	CrossOriginEmbedderPolicy string

	// Remove names fields that are taken away; nil for the default, [Revealing].
	Remove []string
}

// Revealing are the fields by which servers tell what they are.
func Revealing() []string {
	return []string{"Server", "X-Powered-By", "X-Aspnet-Version", "X-Aspnetmvc-Version", "X-Runtime", "X-Generator"}
}

// field is what is said in one field.
type field struct {
	name  string
	value []string // shared
	force bool     // whatever the service says
	https bool     // not over http
}

// hook changes answers. It is immutable.
type hook struct {
	fields []field
	remove []string
}

// New makes the step.
func New(c Config) (policy.Step, error) {
	k := &hook{}
	for _, f := range []struct{ name, value, otherwise string }{
		{"Strict-Transport-Security", c.StrictTransportSecurity, "max-age=31536000"},
		{"X-Content-Type-Options", c.ContentTypeOptions, "nosniff"},
		{"X-Frame-Options", c.FrameOptions, "DENY"},
		{"Content-Security-Policy", c.ContentSecurityPolicy, Off},
		{"Referrer-Policy", c.ReferrerPolicy, "strict-origin-when-cross-origin"},
		{"Permissions-Policy", c.PermissionsPolicy, "camera=(), geolocation=(), microphone=()"},
		{"Cross-Origin-Opener-Policy", c.CrossOriginOpenerPolicy, "same-origin"},
		{"Cross-Origin-Resource-Policy", c.CrossOriginResourcePolicy, "same-origin"},
		{"Cross-Origin-Embedder-Policy", c.CrossOriginEmbedderPolicy, Off},
	} {
		value := f.value
		if value == "" {
			value = f.otherwise
		}
		if value == Off {
			continue
		}
		if !header.IsValue(value) {
			return policy.Step{}, fmt.Errorf("the value of %s cannot be sent", f.name)
		}
		k.fields = append(k.fields, field{
			name: f.name, value: []string{value}, force: f.value != "", https: f.name == "Strict-Transport-Security",
		})
	}
	if c.Remove == nil {
		c.Remove = Revealing()
	}
	for _, name := range c.Remove {
		if err := header.CheckResponse(name); err != nil {
			return policy.Step{}, fmt.Errorf("the field %q %w", name, err)
		}
		k.remove = append(k.remove, http.CanonicalHeaderKey(name))
	}
	return policy.Step{Apply: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { respwriter.Serve(next, w, r, k) })
	}}, nil
}

// Header implements [respwriter.Hook].
func (k *hook) Header(w *respwriter.Writer, r *http.Request, _ int) respwriter.Body {
	h := w.Header()
	for _, name := range k.remove {
		delete(h, name)
	}
	for i := range k.fields {
		f := &k.fields[i]
		if f.https && reqctx.From(r.Context()).Scheme != "https" {
			continue
		}
		if f.force || len(h[f.name]) == 0 {
			h[f.name] = f.value
		}
	}
	return nil
}

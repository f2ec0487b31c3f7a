// Package ginproxy is what the gateway is compared with: the proxy that a good
// engineer who knows Gin, net/http and OpenTelemetry writes in a day. Each request
// goes through one chain of Gin middlewares and httputil.ReverseProxy with a tuned
// transport; each policy is the plain way to do it, without tricks and without waste.
//
// It owns this one proxy and its policies, each of which can be left out, so that a
// case of the gateway is measured against the same work. It is no part of the
// product, and nothing is to be copied from here: it trusts what it is told, keeps
// nothing over a restart, and knows nothing of revocation by others.
package ginproxy

import (
	"crypto/ed25519"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
)

// Options say what the proxy does with a request. Only Target is required; what is
// not given is left out.
type Options struct {
	Target *url.URL // of the service behind it

	Keys  []string          // API keys that may pass, in X-API-Key
	Token ed25519.PublicKey // by which access tokens are signed

	Limit float64 // requests a second with one key, 0 for unlimited
	Quota int64   // requests a month with one key, 0 for unlimited

	Metrics prometheus.Registerer // gets the two histograms
	Traces  string                // URL of the OTLP/HTTP collector that gets one trace in a hundred
	Log     io.Writer             // gets a line for each request
}

// Issuer and Audience are the claims that an access token has to have.
const (
	Issuer   = "keywarden"
	Audience = "keywarden"
)

// Names of headers that are spelled in their canonical form: net/http has it free.
const (
	headerKey       = "X-Api-Key"
	headerRequestID = "X-Request-Id"
)

// Proxy is the handler. Close ends what it started.
type Proxy struct {
	http.Handler

	closers []func() error
}

// New makes a proxy.
func New(o Options) (_ *Proxy, err error) {
	if o.Target == nil {
		return nil, errors.New("there is no target")
	}
	if len(o.Keys) == 0 && (o.Limit > 0 || o.Quota > 0) {
		return nil, errors.New("a limit or a quota is for the owners of keys: there are none")
	}
	p := &Proxy{}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	gin.SetMode(gin.ReleaseMode)
	engine := gin.New()
	chain := []gin.HandlerFunc{identify}
	watch, err := newObserver(p, o)
	if err != nil {
		return nil, err
	}
	if watch != nil {
		chain = append(chain, watch.middleware)
	}
	switch {
	case o.Token != nil:
		chain = append(chain, newTokens(o.Token).middleware)
	case len(o.Keys) > 0:
		chain = append(chain, newKeys(o.Keys, o.Limit).middleware)
	}
	if o.Limit > 0 {
		chain = append(chain, limit(o.Limit))
	}
	if o.Quota > 0 {
		chain = append(chain, quota(o.Quota))
	}
	chain = append(chain, newForwarder(o.Target, watch).handle)
	for _, prefix := range []string{"/bench", "/token", "/limited"} {
		engine.Any(prefix+"/*rest", chain...)
	}
	p.Handler = engine
	return p, nil
}

// Close ends what New started, the last first.
func (p *Proxy) Close() error {
	var all []error
	for i := len(p.closers) - 1; i >= 0; i-- {
		all = append(all, p.closers[i]())
	}
	return errors.Join(all...)
}

// call is what the layers know of a request.
type call struct {
	id    string
	start time.Time
	who   *caller // nil where nobody is asked
}

// contextCall is the place of the call in a gin.Context.
const contextCall = "call"

func callOf(c *gin.Context) *call { return c.MustGet(contextCall).(*call) }

// identify gives the request its id and the time.
func identify(c *gin.Context) {
	k := &call{id: uuid.Must(uuid.NewV7()).String(), start: time.Now()}
	c.Set(contextCall, k)
	c.Writer.Header().Set(headerRequestID, k.id)
	c.Next()
}

// refuse answers with a problem (RFC 9457).
func refuse(c *gin.Context, status int, code string) {
	c.Header("Content-Type", "application/problem+json")
	c.AbortWithStatusJSON(status, gin.H{"title": http.StatusText(status), "status": status, "code": code})
}

package acme

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
)

var (
	errClosed   = errors.New("acme: the program ends")
	errNotKept  = errors.New("acme: the database is away, so that a certificate could not be kept")
	errNoAnswer = errors.New("acme: the authority's answer is too long")
)

// transport carries the requests to the authority. It ends them with the issuer,
// makes none while nothing could be kept, and logs what the authority refuses:
// autocert does not say why it could not renew.
type transport struct {
	base  http.RoundTripper
	cache *cache
	ended context.Context //nolint:containedctx // that of the issuer, which outlives each request
}

// maxAnswer bounds what is read of an answer; chains of certificates are smaller.
const maxAnswer = 1 << 20

// RoundTrip implements http.RoundTripper. The answer is read wholly.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	switch {
	case t.ended.Err() != nil:
		return nil, errClosed
	case t.cache.away.Load():
		return nil, errNotKept
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	defer cancel(nil)
	defer context.AfterFunc(t.ended, func() { cancel(errClosed) })()
	resp, err := t.base.RoundTrip(req.WithContext(ctx))
	if err != nil {
		t.cache.Logger.WarnContext(ctx, "the ACME authority cannot be asked", "url", req.URL.String(), "error", err)
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	err = errors.Join(err, resp.Body.Close())
	if err == nil && len(body) > maxAnswer {
		err = errNoAnswer
	}
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	t.report(ctx, req, resp.StatusCode, body)
	return resp, nil
}

// badNonce is what the client answers by itself (RFC 8555 section 6.5).
const badNonce = "urn:ietf:params:acme:error:badNonce"

// report logs a refusal.
func (t *transport) report(ctx context.Context, req *http.Request, status int, body []byte) {
	if status < http.StatusBadRequest {
		return
	}
	var refusal struct{ Type, Detail string }
	_ = json.Unmarshal(body, &refusal) // a proxy may have answered
	if refusal.Type == badNonce {
		return
	}
	t.cache.Logger.WarnContext(ctx, "the ACME authority refuses", "url", req.URL.String(), "status", status,
		"type", refusal.Type, "detail", refusal.Detail)
}

// Package adminclient speaks to the admin API of a running instance, for the
// command line. It owns the transport: where the server is, what proves who is
// calling, bounds of time and size, and what a refusal says. It prints nothing and
// reads neither flags nor the environment.
package adminclient

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/httpapi/adminapi"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/seal"
)

// ErrUnreachable says that there was no answer that could be the admin API's.
var ErrUnreachable = errors.New("the server cannot be reached")

// Options say whom to ask, and who asks. Server and Credential are required.
type Options struct {
	Server     string      // http://host:port or https://host, and a path before /admin/v1 if there is one
	Credential seal.Secret // an API key or an access token
	CAFile     string      // PEM file with the authorities that are trusted, instead of those of the system
	Timeout    time.Duration
}

// Client asks one server. It is safe for concurrent use.
type Client struct {
	base       *url.URL
	credential seal.Secret
	http       *http.Client
}

// New makes a client that has not connected to anything yet.
func New(o Options) (*Client, error) {
	base, err := url.Parse(o.Server)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" || base.User != nil || base.RawQuery != "" || base.Fragment != "" {
		return nil, fmt.Errorf("the server must be a URL such as https://gateway.example.com or http://127.0.0.1:8080, not %q", redacted(o.Server))
	}
	transport := &http.Transport{
		Proxy:                 nil, // the credential goes where the operator said, and nowhere else
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: o.Timeout,
		DisableKeepAlives:     true, // a command asks a few questions and ends
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
	}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read the authorities: %w", err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM form", o.CAFile)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	return &Client{base: base, credential: o.Credential, http: &http.Client{
		Transport: transport, Timeout: o.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// redacted is a URL for a message: what may be a password is not repeated.
func redacted(text string) string {
	if _, after, found := strings.Cut(text, "@"); found {
		return "…@" + after
	}
	return text
}

// Plain reports whether the credential goes over a network in the clear.
func (c *Client) Plain() bool {
	host := c.base.Hostname()
	addr, err := netip.ParseAddr(host)
	return c.base.Scheme == "http" && host != "localhost" && (err != nil || !addr.IsLoopback())
}

// Error is a refusal of the server.
type Error struct {
	problem.Document
	Method, Path string
}

// Error is the public sentence.
func (e *Error) Error() string {
	text := e.Detail
	if text == "" {
		text = strconv.Itoa(e.Status) + " " + http.StatusText(e.Status)
	}
	return text
}

// Change is how a change is to be made.
type Change struct {
	IfMatch string // digest of the document in force
	Create  bool   // there must be none yet
	DryRun  bool
	Message string
}

func (ch Change) query() string {
	q := url.Values{}
	if ch.DryRun {
		q.Set("dry_run", "true")
	}
	if ch.Message != "" {
		q.Set("message", ch.Message)
	}
	return q.Encode()
}

func (ch Change) header() http.Header {
	h := http.Header{}
	if ch.IfMatch != "" {
		h.Set("If-Match", `"`+ch.IfMatch+`"`)
	}
	if ch.Create {
		h.Set("If-None-Match", "*")
	}
	return h
}

// Document returns the document in force in its canonical JSON form, or as YAML,
// and its digest.
func (c *Client) Document(ctx context.Context, yaml bool) (text []byte, digest string, err error) {
	media := "application/json"
	if yaml {
		media = "application/yaml"
	}
	text, header, err := c.do(ctx, http.MethodGet, "config", "", http.Header{"Accept": {media}}, nil)
	return text, strings.Trim(header.Get("ETag"), `"`), err
}

// Put makes text, in YAML, the document. JSON is YAML.
func (c *Client) Put(ctx context.Context, text []byte, ch Change) (out adminapi.Outcome, err error) {
	h := ch.header()
	h.Set("Content-Type", "application/yaml")
	return out, c.call(ctx, http.MethodPut, "config", ch.query(), h, text, &out)
}

// Revisions returns a page of revisions, newest first; cursor is empty for the
// first.
func (c *Client) Revisions(ctx context.Context, limit int, cursor string) (page httpapi.Page[adminapi.Revision], err error) {
	q := url.Values{"limit": {strconv.Itoa(limit)}}
	if cursor != "" {
		q.Set("cursor", cursor)
	}
	return page, c.call(ctx, http.MethodGet, "config/revisions", q.Encode(), nil, nil, &page)
}

// Rollback makes the content of a revision the document again.
func (c *Client) Rollback(ctx context.Context, number int64, ch Change) (out adminapi.Outcome, err error) {
	path := "config/revisions/" + strconv.FormatInt(number, 10) + "/rollback"
	return out, c.call(ctx, http.MethodPost, path, ch.query(), ch.header(), nil, &out)
}

// Explain tells what would become of a request; it is an adminapi.Explainer.
func (c *Client) Explain(ctx context.Context, r adminapi.ExplainRequest) (out adminapi.ExplainResult, err error) {
	return out, c.send(ctx, http.MethodPost, "explain", r, &out)
}

// call is do for an answer in JSON.
func (c *Client) call(ctx context.Context, method, path, query string, header http.Header, body []byte, answer any) error {
	text, _, err := c.do(ctx, method, path, query, header, body)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("%w: %s %s answered with something else than the admin API does: %w", ErrUnreachable, method, c.base, err)
	}
	return nil
}

// maxAnswer bounds an answer, in bytes: a document in its canonical form, with
// every default spelled out, and what changed in it.
const maxAnswer = 64 << 20

// do makes one call. A refusal is an *Error, and what is no answer of the admin API
// ErrUnreachable.
func (c *Client) do(ctx context.Context, method, path, query string, header http.Header, body []byte) ([]byte, http.Header, error) {
	target := c.base.JoinPath("admin/v1", path)
	target.RawQuery = query
	req, err := http.NewRequestWithContext(ctx, method, target.String(), bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	if header != nil {
		req.Header = header
	}
	req.Header.Set("Authorization", "Bearer "+c.credential.Reveal())
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("%w: the answer broke off: %w", ErrUnreachable, err)
	case len(text) > maxAnswer:
		return nil, nil, fmt.Errorf("%w: the answer is larger than %d bytes", ErrUnreachable, maxAnswer)
	case resp.StatusCode/100 == 2:
		return text, resp.Header, nil
	}
	refused := &Error{Method: method, Path: target.Path}
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if media != problem.ContentType || json.Unmarshal(text, &refused.Document) != nil || refused.Code == "" {
		return nil, nil, fmt.Errorf("%w: %s answered %s, and not as the admin API does", ErrUnreachable, target.Redacted(), resp.Status)
	}
	refused.Status = resp.StatusCode
	return nil, nil, refused
}

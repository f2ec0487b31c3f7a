// Package registry is the HTTP client with which etcd, Consul and Kubernetes are
// asked: JSON in answers and streams, bounded in size and time, over connections
// that belong to one source. It knows none of their APIs.
//
// Redirects are not followed and no proxy of the environment is used, so that a
// credential goes nowhere but to the address in the document.
package registry

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/upstream"
	"github.com/keywarden/keywarden/pkg/seal"
)

// Bounds of a conversation.
const (
	connectTimeout = 5 * time.Second
	keepAlive      = 15 * time.Second // probes: a stream may be silent for long

	maxAnswer = 32 << 20 // bytes
	maxLine   = 4 << 20  // bytes of one event of a stream
	maxSecret = 64 << 10 // bytes of a file with a token or a password
	maxQuote  = 200      // bytes of an answer that an error repeats
)

// ErrTooLong says that an answer is longer than is read. Who asked for many things at
// once may ask for fewer.
var ErrTooLong = errors.New("the answer is too long")

// Options say how a registry is spoken to.
type Options struct {
	TLS upstream.TLS

	// HeaderTimeout is how long the header of an answer may take.
	HeaderTimeout time.Duration
}

// Client speaks to one registry. It is safe for concurrent use.
type Client struct{ transport *http.Transport }

// Open makes a client; the files of o.TLS are read now.
func Open(o Options) (*Client, error) {
	config, err := o.TLS.Config()
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: connectTimeout, KeepAlive: keepAlive}
	var http1 http.Protocols
	http1.SetHTTP1(true)
	return &Client{transport: &http.Transport{
		DialContext: dialer.DialContext, TLSClientConfig: config, TLSHandshakeTimeout: connectTimeout,
		ResponseHeaderTimeout: o.HeaderTimeout, Protocols: &http1, MaxIdleConnsPerHost: 2, IdleConnTimeout: time.Minute,
	}}, nil
}

// Close closes the connections that are not in use.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// StatusError is an answer with another status than 200 and 201.
type StatusError struct {
	Code int
	Text string // how the answer begins
}

// Error implements error.
func (e *StatusError) Error() string { return fmt.Sprintf("status %d: %q", e.Code, e.Text) }

// Do sends a request and decodes the answer into into.
func (c *Client) Do(r *http.Request, into any) (http.Header, error) {
	resp, err := c.send(r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the answer: %w", err)
	case len(text) > maxAnswer:
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLong, maxAnswer)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return nil, fmt.Errorf("the answer is not what it should be: %w", err)
	}
	return resp.Header, nil
}

// Stream sends a request and calls event with each line of the answer, until that
// ends (nil), or event returns an error, which is returned.
func (c *Client) Stream(r *http.Request, event func(line []byte) error) error {
	resp, err := c.send(r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		if line := bytes.TrimSpace(lines.Bytes()); len(line) > 0 {
			if err := event(line); err != nil {
				return err
			}
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("the stream broke off: %w", err)
	}
	return nil
}

func (c *Client) send(r *http.Request) (*http.Response, error) {
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", "keywarden-discovery")
	resp, err := c.transport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxQuote))
		_ = resp.Body.Close()
		return nil, &StatusError{Code: resp.StatusCode, Text: strings.TrimSpace(string(text))}
	}
	return resp, nil
}

// Post makes a request with a JSON body.
func Post(ctx context.Context, url string, body any) (*http.Request, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	return r, nil
}

// Secret reads a token or a password from a file, without the line break at its
// end. It is read each time that it is needed: others renew such files.
func Secret(file string) (seal.Secret, error) {
	f, err := os.Open(file)
	if err != nil {
		return seal.Secret{}, err
	}
	defer func() { _ = f.Close() }() // it was only read
	text, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return seal.Secret{}, err
	}
	secret := strings.TrimRight(string(text), "\r\n")
	if secret == "" || len(text) > maxSecret || strings.ContainsAny(secret, "\r\n") {
		return seal.Secret{}, errors.New(file + " does not hold a secret of one line")
	}
	return seal.NewSecret(secret), nil
}

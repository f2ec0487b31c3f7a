package credential

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/header"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/spec/services"
)

// Bounds of an answer of a token endpoint, in bytes.
const (
	maxAnswer       = 64 << 10
	maxAnswerHeader = 32 << 10
)

// How long a token lives whose answer does not say, and how long one may at most be
// kept, whatever the answer says.
const (
	unknownLife = 5 * time.Minute
	longestLife = 24 * time.Hour
)

// newClient makes the client for token endpoints. It follows no redirect, which
// could carry the secret elsewhere; it asks no proxy of the environment; and it
// keeps no connection, since questions are rare.
func newClient(roots *x509.CertPool) *http.Client {
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:            (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    5 * time.Second,
			MaxResponseHeaderBytes: maxAnswerHeader,
			DisableCompression:     true, // what is small on the wire is small
			DisableKeepAlives:      true,
			ForceAttemptHTTP2:      true,
		},
	}
}

// endpoint is where tokens are asked for.
type endpoint struct {
	client     *http.Client
	url        string
	id, secret text
	post       bool // the client proves who it is in the body, not in the header
	scopes     string
	audience   string
	timeout    time.Duration
	scheme     string // stands before the token where it is presented
}

// given is a token with its life from when it was asked for.
type given struct {
	value seal.Secret
	life  time.Duration
}

func (cs *Credentials) endpoint(of *services.Credential, scheme string) (e endpoint, err error) {
	e = endpoint{
		client: cs.client, url: of.TokenURL, post: of.ClientAuth == services.ClientAuthPost,
		scopes: strings.Join(of.Scopes, " "), audience: of.Audience, timeout: time.Duration(of.Timeout), scheme: scheme,
	}
	if e.id, err = cs.text(of.ClientID); err != nil {
		return e, err
	}
	e.secret, err = cs.text(of.ClientSecret)
	return e, err
}

// ask asks for a token. The error holds neither what was sent nor what was answered,
// but for the word that the protocol has for it; it may be a later.
func (e *endpoint) ask(ctx context.Context) (given, error) {
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	question, err := e.question(ctx)
	if err != nil {
		return given{}, err
	}
	answer, err := e.client.Do(question) //nolint:gosec // the operator names the endpoint, and redirects are not followed
	if err != nil {
		var outer *url.Error // quotes the URL, which may hold what is not for the log
		if errors.As(err, &outer) {
			err = outer.Err
		}
		return given{}, err
	}
	defer func() { _ = answer.Body.Close() }() // it was only read
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	if err != nil {
		return given{}, fmt.Errorf("reading the answer: %w", err)
	}
	if len(body) > maxAnswer {
		return given{}, fmt.Errorf("the answer is over %d bytes", maxAnswer)
	}
	if answer.StatusCode != http.StatusOK {
		return given{}, refused(answer, body)
	}
	return e.read(body)
}

// question makes the request (RFC 6749 sections 2.3.1 and 4.4.2).
func (e *endpoint) question(ctx context.Context) (*http.Request, error) {
	id, err := e.id.value(ctx, nil)
	if err != nil {
		return nil, err
	}
	secret, err := e.secret.value(ctx, nil)
	if err != nil {
		return nil, err
	}
	form := url.Values{"grant_type": {"client_credentials"}}
	if e.scopes != "" {
		form.Set("scope", e.scopes)
	}
	if e.audience != "" {
		form.Set("audience", e.audience)
	}
	if e.post {
		form.Set("client_id", id.Reveal())
		form.Set("client_secret", secret.Reveal())
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url, strings.NewReader(form.Encode())) //nolint:gosec // the operator names the endpoint
	if err != nil {
		return nil, errors.New("the URL of the token endpoint is not valid")
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", "keywarden")
	if !e.post {
		r.SetBasicAuth(url.QueryEscape(id.Reveal()), url.QueryEscape(secret.Reveal()))
	}
	return r, nil
}

// refused is the error of an answer that brings no token. Of what it says, only the
// words of the protocol (RFC 6749 section 5.2) are repeated: whatever else is there
// may be what was sent.
func refused(answer *http.Response, body []byte) error {
	reason := fmt.Sprintf("the token endpoint answers %d", answer.StatusCode)
	var said struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(body, &said) == nil {
		switch said.Error {
		case "invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope",
			"invalid_target", "server_error", "temporarily_unavailable":
			reason += " " + said.Error
		}
	}
	if answer.StatusCode >= 300 && answer.StatusCode < 400 {
		reason += ": redirects are not followed"
	}
	err := errors.New(reason)
	seconds, parse := strconv.Atoi(answer.Header.Get("Retry-After"))
	if parse != nil || seconds <= 0 {
		return err
	}
	return later{err, time.Duration(min(seconds, int(maxPause/time.Second))) * time.Second}
}

// later is an error that says when to ask again.
type later struct {
	error
	after time.Duration
}

// read reads the answer with a token (RFC 6749 section 5.1).
func (e *endpoint) read(body []byte) (given, error) {
	var answer struct {
		Token string      `json:"access_token"`
		Type  string      `json:"token_type"`
		Life  json.Number `json:"expires_in"` // seconds; some servers quote them
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return given{}, errors.New("the answer is not the JSON of a token")
	}
	switch {
	case answer.Token == "" || strings.ContainsAny(answer.Token, " \t") || !header.IsValue(e.scheme+answer.Token):
		return given{}, errors.New("the answer holds no token that could be sent")
	case !strings.EqualFold(answer.Type, "Bearer"):
		return given{}, errors.New("the answer holds a token that is not of the type Bearer")
	}
	life := unknownLife
	if answer.Life != "" {
		seconds, err := answer.Life.Int64()
		if err != nil || seconds <= 0 {
			return given{}, errors.New("expires_in of the answer is not a number of seconds above 0")
		}
		life = time.Duration(min(seconds, int64(longestLife/time.Second))) * time.Second
	}
	return given{value: seal.NewSecret(e.scheme + answer.Token), life: life}, nil
}

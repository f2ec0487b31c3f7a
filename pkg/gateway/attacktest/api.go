package attacktest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// apiTimeout bounds one call to the management API.
const apiTimeout = 15 * time.Second

// callAPI makes the call of s on a connection of its own and returns the answer.
// The path goes on the wire byte for byte, and no redirect is followed.
func callAPI(ctx context.Context, base string, s httpStep, vars variables) (Response, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	req, err := apiRequest(ctx, base, s, vars)
	if err != nil {
		return Response{}, err
	}
	transport := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return Response{}, fmt.Errorf("call the management API: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxResponseBytes))
	if err != nil {
		return Response{}, fmt.Errorf("read the management API's answer: %w", err)
	}
	out := Response{Status: resp.StatusCode, Body: string(body)}
	for name, vs := range resp.Header {
		for _, v := range vs {
			out.Header = append(out.Header, Field{Name: name, Value: v})
		}
	}
	return out, nil
}

// apiRequest builds the request of s.
func apiRequest(ctx context.Context, base string, s httpStep, vars variables) (*http.Request, error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, fmt.Errorf("management API address: %w", err)
	}
	path, err := vars.substitute(s.Path, verbatim)
	if err != nil {
		return nil, fmt.Errorf("path: %w", err)
	}
	body, err := apiBody(s.Body, vars)
	if err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, s.Method, base, strings.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	// An opaque URL is not re-encoded.
	req.URL = &url.URL{Scheme: u.Scheme, Host: u.Host, Opaque: strings.TrimSuffix(u.EscapedPath(), "/") + path}
	req.Header.Set("Content-Type", "application/json")
	for name, value := range s.Headers {
		if value, err = vars.substitute(value, verbatim); err != nil {
			return nil, fmt.Errorf("header %s: %w", name, err)
		}
		req.Header.Set(name, value)
	}
	return req, nil
}

// apiBody renders a step's body. JSON is edited as text and never decoded: a
// number too large for any type, or half a surrogate pair, must arrive as the
// case wrote it.
func apiBody(body json.RawMessage, vars variables) (string, error) {
	if len(body) == 0 || string(body) == "null" {
		return "", nil
	}
	text, quote := string(body), quoteJSON
	if body[0] == '"' {
		if err := json.Unmarshal(body, &text); err != nil {
			return "", err
		}
		quote = verbatim
	}
	text, err := vars.substitute(text, quote)
	if err != nil {
		return "", err
	}
	return expandRepeats(text)
}

// capture reads the value at a dotted path of a JSON document, "items.0.id".
func capture(document, path string) (string, error) {
	dec := json.NewDecoder(strings.NewReader(document))
	dec.UseNumber()
	var at any
	if err := dec.Decode(&at); err != nil {
		return "", fmt.Errorf("not JSON: %w", err)
	}
	for _, name := range strings.Split(path, ".") {
		at = member(at, name)
	}
	switch v := at.(type) {
	case string:
		return v, nil
	case json.Number:
		return v.String(), nil
	case bool:
		return strconv.FormatBool(v), nil
	}
	return "", fmt.Errorf("no text or number at %q", path)
}

// member is a member of an object, an element of a list, or nil.
func member(v any, name string) any {
	switch v := v.(type) {
	case map[string]any:
		return v[name]
	case []any:
		if i, err := strconv.Atoi(name); err == nil && i >= 0 && i < len(v) {
			return v[i]
		}
	}
	return nil
}

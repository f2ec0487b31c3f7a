package telemetry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	redacted  = "[redacted]"
	truncated = "[truncated]"

	// maxValueBytes bounds one value of a log line, so that nobody can make the
	// log grow faster than the traffic.
	maxValueBytes = 8 << 10
)

// secretName reports whether an attribute or JSON member of this name must not
// be printed. The match is exact but for case: key_id and token_type are fine.
func secretName(name string) bool {
	switch strings.ToLower(name) {
	case "authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key",
		"password", "current_password", "new_password", "secret", "client_secret",
		"key", "api_key", "private_key", "master_key",
		"token", "access_token", "refresh_token", "id_token":
		return true
	}
	return false
}

// sanitise is the ReplaceAttr of every handler.
func sanitise(groups []string, a slog.Attr) slog.Attr {
	if secretName(a.Key) || slices.ContainsFunc(groups, secretName) {
		return slog.String(a.Key, redacted)
	}
	switch a.Value.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(clean(a.Value.String()))
	case slog.KindAny:
		a.Value = plain(a.Value.Any())
	}
	return a
}

// clean bounds s and takes out what the JSON handler leaves in: DEL and the C1
// controls, of which a terminal may take U+009B for the start of an escape
// sequence.
func clean(s string) string {
	if len(s) > maxValueBytes {
		s = cut(s, maxValueBytes) + truncated
	}
	const firstByteOfC1 = 0xC2
	if strings.IndexByte(s, firstByteOfC1) < 0 && strings.IndexByte(s, 0x7F) < 0 {
		return s
	}
	return strings.Map(func(r rune) rune {
		if r >= 0x7F && r < 0xA0 {
			return utf8.RuneError
		}
		return r
	}, s)
}

// cut shortens s to at most n bytes without splitting a character.
func cut(s string, n int) string {
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// plain turns an arbitrary value into one that is bounded and holds no member
// with a secret's name, such as the Authorization line of an http.Header. A
// value that panics while it is printed must not take the request with it.
func plain(v any) (out slog.Value) {
	defer func() {
		if p := recover(); p != nil {
			out = slog.StringValue(clean(fmt.Sprintf("!PANIC: %v", p)))
		}
	}()
	switch v := v.(type) {
	case nil, slog.Level, *slog.Source: // slog's own
		return slog.AnyValue(v)
	case error:
		return slog.StringValue(clean(errorText(v)))
	case *url.URL:
		return slog.StringValue(clean(urlText(v)))
	case []byte:
		return slog.StringValue(clean(string(v)))
	}
	return jsonValue(v)
}

// errorText is err's text without the query of a URL that failed: some
// services want their key there.
func errorText(err error) string {
	text := err.Error()
	var failed *url.Error
	if !errors.As(err, &failed) {
		return text
	}
	at := strings.IndexByte(failed.URL, '?')
	if at < 0 {
		return text
	}
	query := failed.URL[at:]
	quoted := strings.Trim(strconv.Quote(query), `"`) // as url.Error prints it
	return strings.NewReplacer(quoted, "?"+redacted, query, "?"+redacted).Replace(text)
}

// urlText is u without user, query and fragment.
func urlText(u *url.URL) string {
	if u == nil {
		return ""
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String()
}

func jsonValue(v any) slog.Value {
	raw, err := json.Marshal(v)
	if err != nil {
		return slog.StringValue(clean("!ERROR: " + err.Error()))
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber() // or large integers would lose digits
	var tree any
	if err := d.Decode(&tree); err != nil {
		return slog.StringValue(clean("!ERROR: " + err.Error()))
	}
	if s, ok := tree.(string); ok {
		return slog.StringValue(clean(s))
	}
	raw, err = json.Marshal(redactTree(tree))
	if err != nil {
		return slog.StringValue(clean("!ERROR: " + err.Error()))
	}
	if len(raw) > maxValueBytes {
		return slog.StringValue(clean(string(raw)))
	}
	return slog.AnyValue(rawJSON(raw))
}

// redactTree is tree with what stands under a secret's name replaced.
func redactTree(tree any) any {
	switch t := tree.(type) {
	case map[string]any:
		out := make(map[string]any, len(t))
		for name, v := range t {
			if secretName(name) {
				v = redacted
			}
			out[clean(name)] = redactTree(v)
		}
		return out
	case []any:
		for i, v := range t {
			t[i] = redactTree(v)
		}
	case string:
		return clean(t)
	}
	return tree
}

// rawJSON is JSON that the JSON handler embeds and the text handler prints.
type rawJSON []byte

// MarshalJSON implements json.Marshaler.
func (r rawJSON) MarshalJSON() ([]byte, error) { return r, nil }

// MarshalText implements encoding.TextMarshaler.
func (r rawJSON) MarshalText() ([]byte, error) { return r, nil }

package httpcache

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// maxSpan bounds every span that a field can name: 2^31 seconds, the number that
// RFC 9111 section 1.2.2 gives for whatever is larger.
const maxSpan = (1 << 31) * time.Second

// Span is the argument of a directive, if it is there. One that cannot be read is
// there, and what is safest.
type Span struct {
	Given bool
	Value time.Duration
}

// Directives are those of Cache-Control (RFC 9111 section 5.2, RFC 5861) that this
// cache acts on, of a request or of an answer. Where a directive is said twice the
// stricter one counts (section 4.2.1).
type Directives struct {
	NoStore         bool
	NoCache         bool // without the names of fields
	Private         bool // with or without the names of fields
	Public          bool
	MustRevalidate  bool
	ProxyRevalidate bool
	MustUnderstand  bool
	OnlyIfCached    bool

	MaxAge               Span
	SMaxAge              Span
	MaxStale             Span
	MinFresh             Span
	StaleWhileRevalidate Span
	StaleIfError         Span

	// NoCacheFields are the fields that must not be given from the cache, in
	// canonical form.
	NoCacheFields []string
}

// ParseRequest reads the directives of a request. Pragma counts where there is no
// Cache-Control (section 5.4).
func ParseRequest(h http.Header) Directives {
	lines := h["Cache-Control"]
	if len(lines) > 0 {
		return parseDirectives(lines)
	}
	var d Directives
	for _, line := range h["Pragma"] {
		for item := range strings.SplitSeq(line, ",") {
			d.NoCache = d.NoCache || strings.EqualFold(strings.TrimSpace(item), "no-cache")
		}
	}
	return d
}

// ParseResponse reads the directives of an answer.
func ParseResponse(h http.Header) Directives { return parseDirectives(h["Cache-Control"]) }

func parseDirectives(lines []string) (d Directives) {
	for _, line := range lines {
		for line != "" {
			var item string
			var whole bool
			item, line, whole = cutItem(line)
			if !whole {
				d.NoStore = true // who knows what the quotation was to hide
			}
			d.add(item)
		}
	}
	return d
}

// cutItem cuts the first item of a list off, at a comma outside of quotation marks.
// whole is false when a quotation does not end.
func cutItem(s string) (item, rest string, whole bool) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ',' && !quoted:
			return s[:i], s[i+1:], true
		}
	}
	return s, "", !quoted
}

func (d *Directives) add(item string) {
	name, value, valued := strings.Cut(item, "=")
	name = strings.TrimSpace(name)
	span := func(s *Span, safest time.Duration, stricter func(a, b time.Duration) time.Duration) {
		v, ok := seconds(value)
		if !ok {
			v = safest
		}
		if s.Given {
			v = stricter(s.Value, v)
		}
		*s = Span{Given: true, Value: v}
	}
	switch strings.ToLower(name) {
	case "no-store":
		d.NoStore = true
	case "no-cache":
		if !valued {
			d.NoCache = true
			return
		}
		names, ok := fieldNames(value)
		d.NoCache = d.NoCache || !ok
		d.NoCacheFields = append(d.NoCacheFields, names...)
	case "private":
		d.Private = true // the form with names is refused as well, which RFC 9111 allows
	case "public":
		d.Public = true
	case "must-revalidate":
		d.MustRevalidate = true
	case "proxy-revalidate":
		d.ProxyRevalidate = true
	case "must-understand":
		d.MustUnderstand = true
	case "only-if-cached":
		d.OnlyIfCached = true
	case "max-age":
		span(&d.MaxAge, 0, least)
	case "s-maxage":
		span(&d.SMaxAge, 0, least)
	case "max-stale":
		if !valued {
			value = "2147483648" // any
		}
		span(&d.MaxStale, 0, least)
	case "min-fresh":
		span(&d.MinFresh, maxSpan, most)
	case "stale-while-revalidate":
		span(&d.StaleWhileRevalidate, 0, least)
	case "stale-if-error":
		span(&d.StaleIfError, 0, least)
	}
}

func least(a, b time.Duration) time.Duration { return min(a, b) }
func most(a, b time.Duration) time.Duration  { return max(a, b) }

// seconds reads delta-seconds (section 1.2.2): digits, in quotation marks or not,
// and with no space around them.
func seconds(s string) (time.Duration, bool) {
	s = strings.TrimRight(s, " \t") // before the comma
	if inner, ok := strings.CutPrefix(s, `"`); ok {
		if s, ok = strings.CutSuffix(inner, `"`); !ok {
			return 0, false
		}
	}
	n := int64(0)
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = min(n*10+int64(s[i]-'0'), int64(maxSpan/time.Second))
	}
	return time.Duration(n) * time.Second, s != ""
}

// fieldNames reads the argument of no-cache, in canonical form.
func fieldNames(s string) (names []string, ok bool) {
	s = strings.TrimSpace(s)
	inner, opened := strings.CutPrefix(s, `"`)
	if opened {
		if inner, ok = strings.CutSuffix(inner, `"`); !ok {
			return nil, false
		}
	}
	for name := range strings.SplitSeq(inner, ",") {
		if name = http.CanonicalHeaderKey(strings.TrimSpace(name)); name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, len(names) > 0
}

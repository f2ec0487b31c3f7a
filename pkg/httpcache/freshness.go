package httpcache

import (
	"errors"
	"net/http"
	"strings"
	"time"
)

// lifetime is for how long an answer is fresh (RFC 9111 section 4.2.1). said is
// false when it does not say so; what it says wrongly is said, and 0.
func lifetime(x Exchange, d Directives) (lifetime time.Duration, said bool) {
	switch {
	case d.SMaxAge.Given:
		return d.SMaxAge.Value, true
	case d.MaxAge.Given:
		return d.MaxAge.Value, true
	}
	expires := x.Header["Expires"]
	if len(expires) == 0 {
		return 0, false
	}
	at, err := parseDate(expires[0])
	if err != nil || len(expires) > 1 {
		return 0, true
	}
	return min(max(0, at.Sub(dateOf(x))), maxSpan), true
}

// dateOf is when the answer was made, as it says; else when it arrived.
func dateOf(x Exchange) time.Time {
	if date := x.Header["Date"]; len(date) == 1 {
		if at, err := parseDate(date[0]); err == nil {
			return at
		}
	}
	return x.Received
}

// parseDate reads an HTTP-date (RFC 9110 section 5.6.7): one of its three forms to
// the letter, and in no other zone than GMT.
func parseDate(s string) (time.Time, error) {
	t, err := http.ParseTime(s)
	if err != nil {
		return t, err
	}
	_, text, _ := strings.Cut(s, " ") // the day of the week says nothing new
	for _, form := range [...]string{http.TimeFormat, time.RFC850, time.ANSIC} {
		made := t.UTC().Format(form)
		if form == time.RFC850 {
			made = strings.TrimSuffix(made, "UTC") + "GMT"
		}
		if _, made, _ = strings.Cut(made, " "); made == text {
			return t, nil
		}
	}
	return t, errDate
}

var errDate = errors.New("httpcache: not a date of HTTP")

// initialAge is the age of an answer when it arrives (section 4.2.3). An Age that
// cannot be read stands for a very old one.
func initialAge(x Exchange) time.Duration {
	apparent := max(0, x.Received.Sub(dateOf(x)))
	age := time.Duration(0)
	if values := x.Header["Age"]; len(values) > 0 {
		var ok bool
		if age, ok = seconds(values[0]); !ok || len(values) > 1 || strings.HasPrefix(values[0], `"`) {
			age = maxSpan
		}
	}
	return max(apparent, age+max(0, x.Received.Sub(x.Requested)))
}

// AgeAt is the current age.
func (o *Object) AgeAt(now time.Time) time.Duration { return o.Age + max(0, now.Sub(o.Received)) }

// TTL is for how long o is fresh from now on; negative when it is stale.
func (o *Object) TTL(now time.Time) time.Duration { return o.Lifetime - o.AgeAt(now) }

// Use is what may be done with an object for a request.
type Use uint8

// The uses.
const (
	Validate    Use = iota // only once the service has confirmed it
	Background             // now, while a fresh one is fetched
	Immediately            // now
)

// UseFor says what may be done with o at now for a request with the directives
// (RFC 9111 sections 4.2.4 and 5.2.1, RFC 5861 section 3).
func (o *Object) UseFor(d Directives, now time.Time) Use {
	if o.NoCache || d.NoCache {
		return Validate
	}
	age, ttl := o.AgeAt(now), o.TTL(now)
	if d.MaxAge.Given && age > d.MaxAge.Value || d.MaxAge.Given && d.MaxAge.Value == 0 || d.MinFresh.Given && ttl < d.MinFresh.Value {
		return Validate
	}
	switch {
	case ttl > 0:
		return Immediately
	case !o.MustValidate && d.MaxStale.Given && -ttl <= d.MaxStale.Value:
		return Immediately
	case -ttl < o.StaleWhileRevalidate:
		return Background
	default:
		return Validate
	}
}

// AllowedOnError reports whether o may be given because the service cannot be
// asked (RFC 5861 section 4).
func (o *Object) AllowedOnError(now time.Time) bool {
	return !o.NoCache && -o.TTL(now) < o.StaleIfError
}

// Package limitfields writes what an answer says of limits: the fields
// RateLimit-Policy and RateLimit of draft-ietf-httpapi-ratelimit-headers, which name
// every limit, and X-RateLimit-Limit, -Remaining and -Reset, which have room for
// one.
package limitfields

import (
	"net/http"
	"strconv"
	"time"

	"github.com/keywarden/keywarden/pkg/problem"
)

// Unit is what a limit counts, as the draft names it.
type Unit string

// The units. Requests are what is meant when nothing is said.
const (
	Requests           Unit = ""
	ConcurrentRequests Unit = "concurrent-requests"
)

// Policy is a limit in RateLimit-Policy: quota units in each window, which is 0
// for one without. The name holds no quotation mark and no backslash.
func Policy(name string, unit Unit, quota int64, window time.Duration) string {
	item := strconv.Quote(name) + ";q=" + strconv.FormatInt(quota, 10)
	if unit != Requests {
		item += `;qu="` + string(unit) + `"`
	}
	if window > 0 {
		item += ";w=" + problem.RetryAfterSeconds(window)
	}
	return item
}

// Left is what somebody has left of a limit. The zero value is of none.
type Left struct {
	Name      string
	Limit     int64         // units that can be had at once
	Remaining int64         // units that can be had now
	Reset     time.Duration // until everything is there again; 0: nobody knows
	Retry     time.Duration // of a refusal: until the units that were asked for can be had; 0: as Reset
}

// Add tells of limits: policies are those of one step, joined with ", ", and left is
// the one of them that is nearest to its end. Where an earlier
// step has told of others, these come after them. The fields with room for one tell
// of the first limit with a window, or of the one that has refused the request.
func Add(h http.Header, policies string, left Left, refused bool, now time.Time) {
	add(h, "Ratelimit-Policy", policies)
	if left == (Left{}) {
		return
	}
	remaining := strconv.FormatInt(left.Remaining, 10)
	item := strconv.Quote(left.Name) + ";r=" + remaining
	// t must not be later than Retry-After (section 4.3 of the draft).
	until := left.Reset
	if left.Retry > 0 {
		until = left.Retry
	}
	if until > 0 {
		item += ";t=" + problem.RetryAfterSeconds(until)
	}
	add(h, "Ratelimit", item)
	if !refused && (left.Reset == 0 || h["X-Ratelimit-Limit"] != nil) {
		return
	}
	h["X-Ratelimit-Limit"] = []string{strconv.FormatInt(left.Limit, 10)}
	h["X-Ratelimit-Remaining"] = []string{remaining}
	h["X-Ratelimit-Reset"] = []string{strconv.FormatInt(now.Add(left.Reset).Unix(), 10)}
}

// add puts an item at the end of a list.
func add(h http.Header, name, item string) {
	if before := h[name]; len(before) > 0 {
		item = before[0] + ", " + item
	}
	h[name] = []string{item}
}

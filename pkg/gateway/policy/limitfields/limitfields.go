// Package limitfields writes what an answer says of limits: the fields
// RateLimit-Policy and RateLimit of draft-ietf-httpapi-ratelimit-headers, which name
// every limit, and X-RateLimit-Limit, -Remaining and -Reset, which have room for
// one.
package limitfields

import (
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
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

// Policies are the limits of one step. They are safe for concurrent use.
type Policies struct {
	own    []string // one value, which is never changed
	after  atomic.Pointer[joined]
	limits []beginning

	limit constant // units that can be had at once
}

// constant is a number that is nearly always the same, with its text.
type constant struct{ first atomic.Pointer[written] }

type written struct {
	n    int64
	text string
}

// text is the text of n. What came first is kept: numbers that differ would be exchanged
// all the time.
func (c *constant) text(n int64) string {
	first := c.first.Load()
	if first != nil && first.n == n {
		return first.text
	}
	text := strconv.FormatInt(n, 10)
	if first == nil {
		c.first.Store(&written{n, text})
	}
	return text
}

// beginning is how RateLimit begins to tell of a limit.
type beginning struct{ name, text string }

// joined is what the policies are after those of an earlier step, which are nearly always
// the same.
type joined struct {
	before string
	value  []string
}

// NewPolicies makes those of a step, each made by [Policy].
func NewPolicies(items []string) *Policies {
	p := &Policies{own: []string{strings.Join(items, ", ")}}
	for _, item := range items {
		quoted, _, _ := strings.Cut(item, ";")
		p.limits = append(p.limits, beginning{strings.Trim(quoted, `"`), quoted + ";r="})
	}
	return p
}

// begin is how RateLimit begins to tell of the limit of this name.
func (p *Policies) begin(name string) string {
	for i := range p.limits {
		if p.limits[i].name == name {
			return p.limits[i].text
		}
	}
	return strconv.Quote(name) + ";r="
}

// field is the value of RateLimit-Policy after another one.
func (p *Policies) field(before []string) []string {
	if len(before) == 0 {
		return p.own
	}
	known := p.after.Load()
	if known == nil || known.before != before[0] {
		known = &joined{before[0], []string{before[0] + ", " + p.own[0]}}
		p.after.Store(known)
	}
	return known.value
}

// Told is what a step tells of: its limits, and the one of them that is nearest to its end.
type Told struct {
	Policies *Policies
	Left     Left
}

// Follower is a step that comes right after another one and tells of limits, too. It tells
// of both at once.
type Follower interface {
	ServeAfter(w http.ResponseWriter, r *http.Request, info *reqctx.Info, now time.Time, earlier Told)
}

// Add tells of the limits of a step. Where an earlier step has told of others, these come
// after them. The fields with room for one tell of the first limit with a window, or of the
// one that has refused the request. The values are kept in the request's info.
func Add(info *reqctx.Info, h http.Header, told Told, refused bool, now time.Time) {
	AddBoth(info, h, Told{}, told, refused, now)
}

// AddBoth tells of the limits of two steps as Add does when it is called for the one and
// then for the other, which may have refused the request. The earlier may be none.
func AddBoth(info *reqctx.Info, h http.Header, earlier, told Told, refused bool, now time.Time) {
	before := h[fieldPolicy]
	field := before
	if earlier.Policies != nil {
		field = earlier.Policies.field(field)
	}
	h[fieldPolicy] = told.Policies.field(field)
	if earlier.Left.Name == "" && told.Left.Name == "" {
		return
	}
	var others []string // that were told of before; then policies were, too
	open := true        // the fields with room for one
	if len(before) > 0 {
		others, open = h[fieldLeft], h[fieldLimit] == nil
	}
	var space [192]byte
	text := space[:0]
	if len(others) > 0 {
		text = append(text, others[0]...)
	}
	var one *Told // that the fields with room for one tell of
	var begin, end int
	for _, t := range [...]*Told{&earlier, &told} {
		if t.Left.Name == "" {
			continue
		}
		if len(text) > 0 {
			text = append(text, ", "...)
		}
		var from, to int
		text, from, to = t.appendLeft(text)
		if refused && t == &told || one == nil && open && t.Left.Reset != 0 {
			one, begin, end = t, from, to
		}
	}
	whole := len(text)
	if one != nil {
		text = strconv.AppendInt(text, now.Add(one.Left.Reset).Unix(), 10)
	}
	all := string(text) // values share their memory: every request of a route with a limit gets here
	value := all[:whole]
	switch {
	case one != nil:
		values := info.Values(4)
		values[0], values[1] = value, one.Policies.limit.text(one.Left.Limit)
		values[2], values[3] = value[begin:end], all[len(value):]
		h[fieldLeft], h[fieldLimit] = values[0:1:1], values[1:2:2]
		h[fieldRemaining], h[fieldReset] = values[2:3:3], values[3:4:4]
	case len(others) > 0:
		others[0] = value // it is in the info of the request, and nobody else's
	default:
		values := info.Values(1)
		values[0] = value
		h[fieldLeft] = values
	}
}

// appendLeft appends what RateLimit says; from begin to end is what remains.
func (t *Told) appendLeft(text []byte) (_ []byte, begin, end int) {
	text = append(text, t.Policies.begin(t.Left.Name)...)
	begin = len(text)
	text = strconv.AppendInt(text, t.Left.Remaining, 10)
	end = len(text)
	// t must not be later than Retry-After (section 4.3 of the draft).
	until := t.Left.Reset
	if t.Left.Retry > 0 {
		until = t.Left.Retry
	}
	if until > 0 {
		text = strconv.AppendInt(append(text, ";t="...), problem.Seconds(until), 10)
	}
	return text, begin, end
}

// The fields, in canonical form.
const (
	fieldPolicy    = "Ratelimit-Policy"
	fieldLeft      = "Ratelimit"
	fieldLimit     = "X-Ratelimit-Limit"
	fieldRemaining = "X-Ratelimit-Remaining"
	fieldReset     = "X-Ratelimit-Reset"
)
